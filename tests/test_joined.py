"""One model of several datasets, `data.also`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sdst import train
from sdst.config import load_config
from sdst.data.joined import JoinedQueries
from sdst.data.samples import GroundingDataset
from sdst.errors import InputError
from sdst.sources.dataset import open_data
from sdst.sources.joined import with_others
from tests.layouts import (
    train_in_two_sittings,
    training_options,
    write_annotations,
    write_features,
    write_labels,
)

LAYOUT = "moment_detr"


def main_options(root: Path) -> list[str]:
    """A dataset with planted features, and how one of two epochs is trained on it."""
    write_annotations(root)
    options = {
        "data.dataset": "custom",
        "data.root": root,
        "data.features": LAYOUT,
        "data.video_features": '["video"]',
        "data.text_features": "text",
        "data.planted": "true",
    }
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [*given, *training_options(LAYOUT), "--train.validate_every", "1"]


def other(root: Path, **data: object) -> Path:
    """The config of another dataset, of highlights alone, that is read in a layout of files."""
    write_labels(root)
    file = root.parent / f"{root.name}.yaml"
    section = {
        "dataset": "custom",
        "root": str(root),
        "features": LAYOUT,
        "video_features": ["video"],
        "text_features": "text",
        "clip_length": 1.0,
        "protocol": "tvsum",
        **data,
    }
    model = {"layers": 4, "schedule": None, "video_width": 32, "text_width": 24}
    content = {"data": section, "model": model, "train": {"select_by": "mAP"}}
    file.write_text(yaml.safe_dump(content))
    return file


def also(*weights: tuple[Path, float]) -> list[str]:
    return ["--data.also", json.dumps({str(file): weight for file, weight in weights})]


def test_every_dataset_is_trained_on_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*main_options(tmp_path / "a"), *also((other(tmp_path / "shows"), 0.5))]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main(["--output", str(whole), *options]) == 0
    said = capsys.readouterr().out
    assert "20 training queries" in said  # 16 and half of 8
    assert "shows  val HD mAP" in said
    assert "TVSum, top-5, 4 queries; planted features" in said
    metrics = json.loads((whole / "metrics.json").read_text())
    found = metrics["also"]["shows"]
    assert (found["split"], found["queries"]) == ("val", 4)
    assert list(found["report"]["domains"]) == ["BK", "VT"]
    log = [json.loads(line) for line in (whole / "metrics.jsonl").open()]
    assert all(0 <= record["val_of_others"]["shows"]["mAP"] <= 100 for record in log)
    train_in_two_sittings(monkeypatch, stopped, options)
    again = json.loads((stopped / "metrics.json").read_text())
    assert again["also"] == metrics["also"] and again["report"] == metrics["report"]
    a, b = (load_file(run / "model" / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_on_other_data_of_another_dataset_is_not_resumed(tmp_path: Path) -> None:
    file = other(tmp_path / "shows")
    options = ["--output", str(tmp_path / "run"), *main_options(tmp_path / "a"), *also((file, 1))]
    train.main(options)
    other(tmp_path / "shows", clip_length=2.0)
    with pytest.raises(InputError, match="started on other features"):
        train.main([*options, "--resume"])


def test_queries_are_drawn_by_weight_anew_every_epoch(tmp_path: Path) -> None:
    data = open_data(load_config("demo", main_options(tmp_path / "a")))
    part = data.dataset("train")
    few = GroundingDataset(part.annotations[:5], part.source, part.clip_length, part.layers)
    joined = JoinedQueries([(part, 0.5), (few, 2.4)], seed=3)
    assert len(joined) == 8 + 12

    def drawn(epoch: int) -> list[int | str]:
        joined.epoch = epoch
        return [joined[i].annotation.qid for i in range(len(joined))]

    first, second = drawn(1), drawn(2)
    assert first != second and first == drawn(1)
    assert len(set(first[:8])) == 8
    assert sorted(Counter(first[8:]).values()) == [2, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("layout", "changed", "message"),
    [
        ("moment_detr", {}, None),
        ("univtg", {"features": "univtg", "video_features": ["video"]}, None),
        ("sdst", {"features": "sdst", "video_features": ["video"]}, r"data\.also .*b\.yaml: .*"),
    ],
)
def test_one_model_takes_features_of_one_backbone(
    layout: str, changed: dict, message: str | None, tmp_path: Path
) -> None:
    options = [*write_features(tmp_path / "a", "moment_detr"), *training_options("moment_detr")]
    write_annotations(tmp_path / "a")
    root = tmp_path / "b"
    write_features(root, layout)
    named = {"video_features": ["slowfast", "clip"], "clip_length": 2.0} | changed
    data = open_data(load_config("demo", [*options, *also((other(root, **named), 1))]))
    if message is None:
        assert len(with_others(data).training()) == 16 + 8
        return
    with pytest.raises(InputError, match=message):
        with_others(data)


def test_another_backbone_is_named(tmp_path: Path) -> None:
    file = other(tmp_path / "shows")
    data = open_data(load_config("demo", [*main_options(tmp_path / "a"), *also((file, 1))]))
    encoded = replace(data, meta={**data.meta, "fingerprint": "of a backbone"})
    message = (
        r"data\.also .*shows\.yaml: is read as files in the layout moment_detr, .* one backbone"
    )
    with pytest.raises(InputError, match=message):
        with_others(encoded)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"demo": 0}', "data.also demo is 0"),
        ('{"a/x.yaml": 1, "b/x.yaml": 1}', "two configs called x"),
    ],
)
def test_weights_and_names_are_checked(given: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_config("demo", ["--data.also", given])


def test_others_name_no_others_in_turn(tmp_path: Path) -> None:
    file = other(tmp_path / "shows", also={"demo": 1})
    data = open_data(load_config("demo", [*main_options(tmp_path / "a"), *also((file, 1))]))
    with pytest.raises(InputError, match="names others in turn"):
        with_others(data)


def test_the_example_names_recipes_of_one_kind_of_features() -> None:
    config = load_config(Path(__file__).parents[1] / "examples" / "joint.yaml")
    for name in config.data.also:
        other = load_config(name)
        for key in ("layers", "video_width", "text_width"):
            assert getattr(other.model, key) == getattr(config.model, key)
        assert other.data.video_features == config.data.video_features


def without_moments(root: Path) -> None:
    """Leave the moments of the training queries out."""
    file = root / "train.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        del record["relevant_windows"]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_pairs_without_moments_pre_train_through_the_contrastive_losses(tmp_path: Path) -> None:
    options = main_options(tmp_path / "a")
    without_moments(tmp_path / "a")
    with pytest.raises(InputError, match=r"no relevant_windows .* data\.pairs"):
        open_data(load_config("demo", options))
    run = tmp_path / "pairs"
    train.main(["--output", str(run), *options, "--data.pairs", "true"])
    losses = [json.loads(line)["losses"] for line in (run / "metrics.jsonl").open()]
    for name in ("classification", "l1", "iou", "actionness", "saliency"):
        assert losses[0][name] == 0, name
    for name in ("contrast", "alignment"):
        assert losses[-1][name] > 0, name
