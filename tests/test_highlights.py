"""Datasets whose clips are labelled one by one: trained, evaluated, resumed, shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdst import Grounder, train
from sdst.config import load_config
from sdst.convert import convert
from sdst.data.annotations import NO_SENTENCE, Annotation
from sdst.data.samples import clip_ratings
from sdst.errors import InputError
from sdst.evaluate import main as evaluate
from sdst.ground import main as ground
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


def test_an_unknown_protocol_is_reported() -> None:
    with pytest.raises(InputError, match=r"data\.protocol is 'tv', expected one of"):
        load_config("demo", ["--data.protocol", "tv"])


def test_they_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_labels(tmp_path)
    picture = tmp_path / "dataset.png"
    inspect(["--annotations", str(tmp_path / "train.jsonl"), "--plot", str(picture)])
    assert "queries with labelled clips" in capsys.readouterr().out
    assert picture.stat().st_size > 10_000


def without_sentences(root: Path) -> None:
    """Leave the queries out of the annotations."""
    for file in root.glob("*.jsonl"):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        for record in records:
            del record["query"]
        file.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_highlights_are_learned_without_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--config", "tvsum_clip_slowfast", *dataset(tmp_path / "data")]
    options += ["--data.sentences", "none", "--data.text_features", ""]
    shutil.rmtree(tmp_path / "data" / "text")
    without_sentences(tmp_path / "data")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main(["--output", str(whole), *options]) == 0
    metrics = json.loads((whole / "metrics.json").read_text())
    assert list(metrics["report"]["domains"]) == ["BK", "VT"]
    log = [json.loads(line)["losses"] for line in (whole / "metrics.jsonl").open()]
    assert log[-1]["loss"] == pytest.approx(0.1 * log[-1]["saliency"], rel=1e-3)
    evaluate(["--checkpoint", str(whole), "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text()) == metrics["report"]
    train_in_two_sittings(monkeypatch, stopped, options)
    assert json.loads((stopped / "metrics.json").read_text())["report"] == metrics["report"]


def test_features_packed_without_sentences_are_read(tmp_path: Path) -> None:
    options = [*dataset(tmp_path), "--data.sentences", "none"]
    shutil.rmtree(tmp_path / "text")
    store = convert(load_config("tvsum_clip_slowfast", options), progress=False)
    assert not store.query_ids
    data = open_data(load_config("tvsum_clip_slowfast", options))
    assert data.source.source.path == store.path
    sample = data.dataset("val")[0]
    assert sample.text.shape == (1, 1, 24) and not sample.text.any()


def test_a_video_without_a_question_has_its_highlights(
    tiny_dataset: Path, tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = tmp_path / "run", tmp_path / "answer.json"
    moments = ("classification", "l1", "iou", "actionness")
    no_moments = [part for name in moments for part in (f"--loss.{name}", "0")]
    options = [*tiny_options, "--data.sentences", "none", *no_moments, "--train.epochs", "1"]
    options += ["--model.text_width", "0"]  # left to features that have none
    train.main(["--output", str(run), *options])
    video = next((tiny_dataset / "videos").glob("*.mp4"))
    asked = ["--checkpoint", str(run), "--video", str(video)]
    capsys.readouterr()
    assert ground([*asked, "--json", str(out)]) == 0
    assert NO_SENTENCE in capsys.readouterr().out
    [answer] = json.loads(out.read_text())["answers"]
    saliency = np.array(answer["pred_saliency_scores"])
    windows = np.array(answer["pred_relevant_windows"])
    start, end = windows[0, :2].astype(int)  # clips of a second
    assert saliency[start:end].mean() > saliency.mean()
    assert (np.diff(windows[:, 2]) <= 0).all()
    with pytest.raises(InputError, match=r"was trained without sentences .* leave the query out"):
        ground([*asked, "--query", "a red circle"])
    found = Grounder(run).search([video], top=2)
    assert [moment.start for moment in found[0]] == windows[:2, 0].tolist()


def test_other_models_are_asked_something(tiny_checkpoint: Path, film: Path) -> None:
    with pytest.raises(InputError, match="no query given; give --query TEXT"):
        ground(["--checkpoint", str(tiny_checkpoint), "--video", str(film)])
    with pytest.raises(InputError, match="no query given"):
        Grounder(tiny_checkpoint).ground(film)
