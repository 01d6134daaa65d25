"""Benchmarks read a finished run and do not take another for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies.runs import FIGURES, evaluated_on_demo, head, row, trained
from sdst.errors import InputError
from sdst.files.cache_folder import cache_dir
from tests.processor import needs_bf16

EPOCH = ["--train.epochs", "1"]


@pytest.fixture(scope="module")
def run(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, trained(folder, "demo", [*tiny_options, *EPOCH])


def test_a_finished_run_is_read_and_not_repeated(run, tiny_options, monkeypatch) -> None:
    folder, metrics = run
    monkeypatch.setattr(
        "benchmarks.studies.runs.train", lambda *_, **__: pytest.fail("trained again")
    )
    assert trained(folder, "demo", [*tiny_options, *EPOCH]) == json.loads(json.dumps(metrics))


def test_a_run_of_other_settings_is_refused(run, tiny_options) -> None:
    with pytest.raises(InputError, match=r"train\.epochs was 1, now 2"):
        trained(run[0], "demo", [*tiny_options, "--train.epochs", "2"])


def test_an_interrupted_run_is_resumed_and_not_taken_for_a_finished_one(run, tiny_options) -> None:
    folder, metrics = run
    file = folder / "metrics.json"
    file.write_text(json.dumps({**metrics, "interrupted": True, "report": None}))
    again = trained(folder, "demo", [*tiny_options, *EPOCH])
    assert (again["report"], again["interrupted"]) == (metrics["report"], False)


def test_a_run_is_evaluated_on_as_many_videos_as_asked_for(run, own_cache, monkeypatch) -> None:
    folder, metrics = run
    report = evaluated_on_demo(folder, 3)
    assert report["brief"].keys() == metrics["report"]["brief"].keys()
    assert len(list((cache_dir() / "demo-3" / "videos").glob("test_*.mp4"))) == 3
    monkeypatch.setattr("benchmarks.studies.runs.predict", lambda *_, **__: pytest.fail("again"))
    assert evaluated_on_demo(folder, 3) == report


@needs_bf16
def test_what_is_evaluated_in_bf16_is_kept_beside_the_rest(run, own_cache) -> None:
    folder, _ = run
    whole, rounded = (evaluated_on_demo(folder, 3, precision=name) for name in ("fp32", "bf16"))
    assert whole.keys() == rounded.keys()
    assert {"report-3.json", "report-3-bf16.json"} <= {file.name for file in folder.iterdir()}


def test_a_row_has_a_cell_for_every_figure(run) -> None:
    line = row("demo", [run[1], run[1]])
    assert line.count("|") == head("demo", "s").splitlines()[0].count("|") == len(FIGURES) + 3
    figure = run[1]["report"]["brief"]["MR-full-R1@0.5"]
    assert f"| {figure:.1f} ± 0.0 |" in line
