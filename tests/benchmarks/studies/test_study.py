"""A study: rows times seeds, compared, in three formats."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks.studies.bootstrap import paired_difference
from benchmarks.studies.grid import GRIDS, Grid, read_grid
from benchmarks.studies.runs import Run, figures_per_query
from benchmarks.studies.study import Plan, run_study
from benchmarks.studies.tables import (
    PUBLISHED,
    Row,
    Study,
    as_csv,
    as_latex,
    as_markdown,
    published,
)
from sdst.config import load_config
from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.report import FIGURES, figures_of, labelled

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("name", GRIDS)
def test_every_row_of_a_packaged_grid_is_a_configuration_of_its_own(name: str) -> None:
    grid = read_grid(name)
    configs = [load_config(grid.recipe, grid.of_row(row)) for row in grid.rows]
    assert all(a != b for i, a in enumerate(configs) for b in configs[:i])
    assert grid.published is None or published(grid.published)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows: {a: {}}", "expected the keys recipe and rows"),
        ("recipe: demo\nrows: {a: {}}\nseed: 1", "expected the keys"),
        ("recipe: demo\nrows: []", "rows must map labels"),
        ("recipe: demo\nrows: {a: {epochs: 1}}", "rows must map labels"),
        ("recipe: demo\nrows: {a: [", "not YAML"),
        ("recipe: demo\nrows: {'a: 1': {}, 'a: 2': {}}", "must differ"),
    ],
)
def test_another_file_is_no_grid(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_grid(str(tmp_path / "grid.yaml"))


def test_a_sure_difference_is_told_from_chance() -> None:
    baseline = RNG.normal(50, 20, (3, 400))
    same = paired_difference(baseline + RNG.normal(0, 20, baseline.shape), baseline)
    better = paired_difference(baseline + RNG.normal(8, 20, baseline.shape), baseline)
    assert not same.is_sure and same.low < 0 < same.high and same.p > 0.05
    assert better.is_sure and 5 < better.low < better.mean < better.high and better.p < 0.01


def test_the_spread_of_seeds_widens_the_interval() -> None:
    """Every query gains as much, but not with every seed."""
    baseline = np.zeros((4, 1000))
    steady = paired_difference(baseline + 1, baseline)
    moody = paired_difference(baseline + np.array([[-3], [5], [-2], [4]]), baseline)
    assert steady.low == pytest.approx(steady.high)
    assert moody.mean == pytest.approx(1)
    assert not moody.is_sure


def test_figures_of_single_queries_average_to_the_reports() -> None:
    truth = [
        Annotation(
            i,
            "q",
            "v",
            20.0,
            windows=((2.0 * i, 2.0 * i + 4),),
            clip_ids=(i,),
            saliency=((4, 2, 3),),
        )
        for i in range(6)
    ]
    records = [
        {
            "qid": a.qid,
            "query": "q",
            "vid": "v",
            "pred_relevant_windows": [[3, 8, 0.9], [0, 5, 0.5]],
            "pred_saliency_scores": RNG.normal(size=10).tolist(),
        }
        for a in truth
    ]
    protocol = PROTOCOLS["qvhighlights"]
    found = figures_per_query(records, truth, protocol, 2.0, protocol.headline)
    whole = labelled(figures_of(protocol.score(records, truth, 2.0)), protocol.headline)
    assert found.keys() == whole.keys() == set(protocol.headline)
    for label, values in found.items():
        assert values.mean() == pytest.approx(whole[label], abs=0.01)


def study() -> Study:
    def row(name: str, gain: float) -> Row:
        hits = [100.0 * (np.arange(200) < 80 + gain + seed) for seed in range(2)]
        qids = tuple(range(200))
        runs = [Run("200 queries", qids, {"R1@0.5": x.mean()}, {"R1@0.5": x}, 60) for x in hits]
        return Row(name, runs)

    return Study("Moments", ["R1@0.5"], [row("a_1", 0), row("better", 40)], published("tacos")[-1:])


def test_markdown_has_figures_differences_and_what_others_report() -> None:
    text = as_markdown(study())
    assert "| a_1 | 40.2 ± 0.4 | 60.0 ± 0.0 |" in text
    assert "| better | **+20.0 [+" in text
    assert "| Moment-DETR | CLIP B/32, SlowFast | 25.5 | https://github.com/line/lighthouse" in text


def test_csv_has_a_line_for_every_figure() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(study()))))
    assert [line["row"] for line in lines[:3]] == ["a_1", "better", "Moment-DETR"]
    assert float(lines[1]["difference"]) == pytest.approx(20)
    assert lines[0]["difference"] == ""
    assert all(line["source"] for line in lines)


def test_latex_escapes_and_marks() -> None:
    text = as_latex(study())
    assert r"a\_1 & $40.2 \pm 0.4$ \\" in text
    assert r"better & $60.2 \pm 0.4^{\dagger}$ \\" in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_published_figures_are_percentages_with_a_source() -> None:
    labels = (
        set(FIGURES)
        | {*["BK", "BT", "DS", "FM", "GA", "MS", "PK", "PR", "VT", "VU"]}
        | {"dog", "gymnastics", "parkour", "skating", "skiing", "surfing"}
    )
    for benchmark in yaml.safe_load(PUBLISHED.read_text()):
        for entry in published(benchmark):
            assert entry.figures.keys() <= labels
            assert all(0 < value < 100 for value in entry.figures.values())
            assert entry.source


def test_rows_on_other_queries_are_not_compared(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: Path, *_: object) -> Run:
        qids = (1, 2) if folder.name.startswith("all") else (1,)
        return Run("queries", qids, dict.fromkeys(PROTOCOLS["custom"].headline, 50.0), {}, 1.0)

    monkeypatch.setattr("benchmarks.studies.study.study_run", run)
    grid = Grid("demo", {"all": {}, "some": {"data.limit": 1}})
    with pytest.raises(InputError, match="some: was evaluated on other queries than all"):
        run_study(grid, Plan(tmp_path, range(1), tuple(tiny_options)))


def test_test_videos_are_the_demos(tiny_options: list[str], tmp_path: Path) -> None:
    grid = Grid("demo", {"all": {}})
    with pytest.raises(InputError, match="--videos: are the demo's"):
        run_study(grid, Plan(tmp_path, range(1), tuple(tiny_options), videos=3))


def test_a_study_is_made_once_and_resumes(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grid.yaml").write_text(
        "recipe: demo\nrows: {cross: {model.attention: cross}, rdsa: {}}\n"
        "options: {train.epochs: 1}\n"
    )
    grid = read_grid(str(tmp_path / "grid.yaml"))
    options = [*tiny_options]
    at = options.index("--train.epochs")
    plan = Plan(tmp_path / "out", range(2), (*options[:at], *options[at + 2 :]))
    first = run_study(grid, plan)
    assert sorted(path.name for path in plan.output.iterdir()) == [
        "cross-seed0",
        "cross-seed1",
        "rdsa-seed0",
        "rdsa-seed1",
        "table.csv",
        "table.md",
        "table.tex",
    ]
    assert (plan.output / "table.md").read_text() == as_markdown(first)
    (plan.output / "rdsa-seed1" / "metrics.json").unlink()
    monkeypatch.setattr(
        "sdst.training.trainer.Trainer.train_epoch", lambda *_: pytest.fail("trained again")
    )
    again = run_study(grid, plan)
    for label in first.labels:
        assert [row.values(label) for row in again.rows] == [
            row.values(label) for row in first.rows
        ]
    several = run_study(grid, replace(plan, several=True))
    qids = several.rows[0].runs[0].qids
    assert "queries with several moments" in several.title
    assert 0 < len(qids) < len(first.rows[0].runs[0].qids)
