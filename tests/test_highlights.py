"""Datasets whose clips are labelled one by one: trained, evaluated, resumed, shown."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sdst import train
from sdst.config import load_config
from sdst.data.annotations import Annotation
from sdst.data.batches import clip_ratings
from sdst.errors import InputError
from sdst.evaluate import main as evaluate
from sdst.inspect import main as inspect
from sdst.sources.dataset import open_data
from tests.layouts import train_in_two_sittings, training_options, write_features, write_labels

RECIPES = ["tvsum_clip_slowfast", "youtube_clip_slowfast"]


def dataset(root: Path) -> list[str]:
    """Labels, and features as Moment-DETR has them; the options that name them."""
    write_labels(root)
    files = json.dumps({"train": "train.jsonl", "val": "val.jsonl"})
    options = [*write_features(root, "moment_detr"), "--data.annotations", files]
    shape = ["--data.endpoints", "false", "--train.validate_every", "1"]
    return [*options, *training_options("moment_detr"), *shape, "--train.batch_size", "4"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_evaluates_and_resumes(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--config", recipe, *dataset(tmp_path / "data")]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main(["--output", str(whole), *options]) == 0
    evaluate(["--checkpoint", str(whole), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["domains"]) == ["BK", "VT"]
    metrics = json.loads((whole / "metrics.json").read_text())
    assert report == metrics["report"]
    train_in_two_sittings(monkeypatch, stopped, options)
    assert json.loads((stopped / "metrics.json").read_text())["report"] == report


def test_a_model_of_one_topic_sees_no_other(tmp_path: Path) -> None:
    options = [*dataset(tmp_path), "--data.domain", "BK"]
    data = open_data(load_config("tvsum_clip_slowfast", options))
    assert {a.domain for split in data.splits.values() for a in split} == {"BK"}


def test_a_topic_that_is_not_there_is_named(tmp_path: Path) -> None:
    options = [*dataset(tmp_path), "--data.domain", "XX"]
    with pytest.raises(InputError, match=r"no video of data\.domain XX; its domains: BK, VT"):
        open_data(load_config("tvsum_clip_slowfast", options))


def test_clips_above_the_average_of_their_video_are_positive() -> None:
    labels = ((1, 2), (5, 3), (1, 1), (4, 5))
    annotation = Annotation("v", "dog", "v", 8.0, labels=labels, domain="dog")
    mean = [1.5, 4, 1, 4.5]
    expected = np.maximum(np.array(mean) - np.mean(mean), 0)
    np.testing.assert_allclose(clip_ratings(annotation, 4, 2.0), expected)
    np.testing.assert_allclose(clip_ratings(annotation, 3, 2.0), expected[:3])
    np.testing.assert_allclose(clip_ratings(annotation, 6, 2.0), [*expected, 0, 0])


def test_an_unknown_protocol_is_told() -> None:
    with pytest.raises(InputError, match=r"data\.protocol is 'tv', expected one of"):
        load_config("demo", ["--data.protocol", "tv"])


def test_they_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_labels(tmp_path)
    picture = tmp_path / "dataset.png"
    inspect(["--annotations", str(tmp_path / "train.jsonl"), "--plot", str(picture)])
    assert "queries with labelled clips" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000
