"""The comparison of tuning strategies: what trains, what is fed, what is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("peft", reason="benchmarks.studies.tuning needs peft: pip install -e '.[test]'")

from benchmarks.studies.tuning import __main__ as tuning
from benchmarks.studies.tuning import cost
from benchmarks.studies.tuning.cost import SETUPS, random_batch
from benchmarks.studies.tuning.pictures import Pictures
from benchmarks.studies.tuning.strategies import (
    STRATEGIES,
    OnFeatures,
    Training,
    make_model,
    with_backbone,
)
from sdst.backbones import load_backbone
from sdst.data.annotations import read_annotations
from sdst.data.batches import collate
from sdst.data.samples import GroundingDataset
from sdst.data.video import ClipReader
from sdst.data.video_files import dataset_videos
from sdst.model.fused import fuse

SMALL = replace(SETUPS["demo"], clips=6, batch=2, queries=1)


@pytest.fixture(scope="module")
def pictures(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return pictures_in(tmp_path_factory.mktemp("pictures") / "frames", tiny_dataset)


def pictures_in(folder: Path, root: Path) -> Pictures:
    annotations = read_annotations(root / "val.jsonl", clip_length=1.0)
    videos = dataset_videos(root / "videos", {a.vid for a in annotations})
    queries = {a.qid: a.query for a in annotations}
    return Pictures(folder, videos, queries, load_backbone("demo", 1), clip_length=1.0)


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_step_moves_all_that_trains_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    strategy = STRATEGIES[name]
    training = Training(strategy, SMALL.config, steps=9)
    before = {key: value.clone() for key, value in training.model.named_parameters()}
    batch = random_batch(SMALL, strategy)
    for _ in range(2):  # the first cannot move LoRA's A, as its B is zero
        training.step(batch)
    for key, value in training.model.towers.named_parameters(prefix="towers"):
        if value.requires_grad:
            assert not torch.equal(value, before[key]), key
        else:  # peft adds LoRA's part to the weights and takes it off again, up to rounding
            torch.testing.assert_close(value, before[key])


@pytest.mark.parametrize("name", ["sdst", "paper", "head"])
def test_a_frozen_backbone_has_no_part_in_training(name: str) -> None:
    training = Training(STRATEGIES[name], SMALL.config, steps=9)
    assert isinstance(training.model, OnFeatures)
    assert np.isfinite(training.step(random_batch(SMALL, STRATEGIES[name])))


@pytest.mark.parametrize("name", ["sdst", "head"])
def test_pictures_give_the_answer_that_their_features_give(
    name: str, pictures: Pictures, tiny_dataset: Path
) -> None:
    annotations = read_annotations(tiny_dataset / "val.jsonl", clip_length=1.0)
    dataset = GroundingDataset(annotations, pictures, 1.0, layers=4)
    sample = dataset[0]
    batch = collate([sample, dataset[len(dataset) - 1]])
    config = SMALL.config
    torch.manual_seed(0)
    model = make_model(STRATEGIES[name], config).eval()
    backbone = load_backbone("demo", config.model.layers)
    [file] = dataset_videos(tiny_dataset / "videos", {sample.annotation.vid}).values()
    frames = np.concatenate(list(ClipReader(file, 1.0)))
    with torch.inference_mode():
        asked = with_backbone(model, config).eval()(*batch.inputs())
        tokens = backbone.encode_frames(frames).tokens[None]
        [text] = backbone.encode_text([sample.annotation.query])
        lengths = batch.video_lengths[:1], batch.text_lengths[:1]
        expected = model(tokens, text.tokens[None], *lengths)
    torch.testing.assert_close(asked.spans[:, :1], expected.spans)
    clips = tokens.shape[2]
    torch.testing.assert_close(asked.saliency[:, :1, :clips], expected.saliency)


def test_broken_off_decoding_leaves_nothing(
    tmp_path: Path, tiny_dataset: Path, monkeypatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        pictures_in(tmp_path / "frames", tiny_dataset)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the benchmark is run: threads that wait for one another spend processor time, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_training_the_backbone_takes_more_than_a_head() -> None:
    head, full = (cost.training(SMALL, STRATEGIES[name], steps=1) for name in ("head", "full"))
    assert all(full[name] > head[name] for name in ("trainable", "step", "peak"))


@pytest.mark.usefixtures("one_thread")
def test_an_answer_from_pictures_takes_longer_than_from_features() -> None:
    found = cost.answering(replace(SMALL, queries=5))
    assert found.keys() == STRATEGIES.keys()
    assert all(row["query"] > row["head"] > 0 for row in found.values())
    assert found["full"] == found["lora"] == found["head"]


def test_equal_time_is_that_of_side_tuning() -> None:
    costs = {"sdst": {"step": 0.2}, "paper": {"step": 0.21}, "full": {"step": 1.0}}
    assert tuning.equal_time_steps(costs, 100) == {"sdst": 100, "paper": 100, "full": 20}


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"step": 1}')
    assert tuning.finished(tmp_path / "run.json", "no.such.module") == {"step": 1}


def test_queries_are_answered_by_row_programs_as_users_have_them(monkeypatch) -> None:
    found = []

    def noted(model: torch.nn.Module) -> object:
        found.append(fuse(model))
        return found[-1]

    monkeypatch.setattr("sdst.model.tuner.fuse", noted)
    cost.answering(SMALL)
    assert found and None not in found
