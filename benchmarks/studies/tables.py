"""A study as a table: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from benchmarks.studies.bootstrap import Difference, paired_difference
from benchmarks.studies.runs import Run
from sdst.errors import InputError

PUBLISHED = Path(__file__).parent / "published.yaml"


@dataclass(frozen=True)
class Row:
    """A variant and its runs, one for each seed."""

    name: str
    runs: list[Run]

    def values(self, label: str) -> list[float]:
        """A figure, seed by seed."""
        return [run.figures[label] for run in self.runs]

    def per_query(self, label: str) -> np.ndarray:
        """[seeds, queries], the same figure of every query."""
        return np.stack([run.per_query[label] for run in self.runs])


@dataclass(frozen=True)
class Published:
    """Figures that others report.

    Args:
        figures: in percent, by label; those that they do not report are missing.
        source: where the figures are published.
    """

    method: str
    features: str
    figures: dict[str, float]
    source: str


@dataclass(frozen=True)
class Study:
    """Rows under the same conditions.

    Args:
        labels: of the figures, in the order of the columns.
        rows: the first is the baseline.
        others: published figures, under conditions of their own.
    """

    title: str
    labels: Sequence[str]
    rows: list[Row]
    others: list[Published]

    def difference(self, row: Row, label: str) -> Difference | None:
        """From the baseline; None of itself."""
        baseline = self.rows[0]
        if row is baseline:
            return None
        return paired_difference(row.per_query(label), baseline.per_query(label))


def published(benchmark: str) -> list[Published]:
    """Figures of the field on a benchmark.

    Raises:
        InputError: there are none.
    """
    found = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    if benchmark not in found:
        raise InputError(f"published {benchmark!r}: expected one of {', '.join(found)}")
    return [Published(**entry) for entry in found[benchmark]]


def as_markdown(study: Study) -> str:
    """Figures, differences from the first row, and what others report."""
    seeds = len(study.rows[0].runs)
    head = [f"{study.title}; {seeds} seeds", *study.labels, "training s"]
    body = [
        [row.name, *(_spread(row.values(label)) for label in study.labels), _spread(_seconds(row))]
        for row in study.rows
    ]
    parts = [_markdown(head, body)]
    if len(study.rows) > 1:
        head = [f"points from “{study.rows[0].name}”, 95 % interval", *study.labels]
        body = [
            [row.name, *(_interval(study.difference(row, label)) for label in study.labels)]
            for row in study.rows[1:]
        ]
        parts.append(_markdown(head, body))
    if study.others:
        head = ["published, under conditions of their own", "features", *study.labels, "source"]
        body = [
            [o.method, o.features, *(_figure(o.figures.get(x)) for x in study.labels), o.source]
            for o in study.others
        ]
        parts.append(_markdown(head, body))
    return "\n".join(parts)


def as_csv(study: Study) -> str:
    """A line for every figure of every row."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["row", "figure", "mean", "sd", "seeds", "difference", "low", "high", "p", "source"])
    for row in study.rows:
        for label in study.labels:
            values, found = row.values(label), study.difference(row, label)
            compared = (found.mean, found.low, found.high, found.p) if found else ()
            numbers = [f"{x:.4f}" for x in (statistics.mean(values), _sd(values))]
            against = [f"{x:.4f}" for x in compared] or [""] * 4
            write([row.name, label, *numbers, len(values), *against, "this study"])
    for other in study.others:
        for label, value in other.figures.items():
            write([other.method, label, value, *[""] * 6, other.source])
    return text.getvalue()


def as_latex(study: Study) -> str:
    """A `tabular` for booktabs; a dagger marks what the bootstrap separates from the first row."""
    labels = study.labels
    lines = [
        f"% {study.title}; {len(study.rows[0].runs)} seeds, mean and standard deviation",
        r"\begin{tabular}{l" + "c" * len(labels) + "}",
        r"\toprule",
        " & ".join(["", *map(_escaped, labels)]) + r" \\",
        r"\midrule",
    ]
    for row in study.rows:
        cells = []
        for label in labels:
            found, values = study.difference(row, label), row.values(label)
            mark = r"^{\dagger}" if found and found.is_sure else ""
            cells.append(f"${statistics.mean(values):.1f} \\pm {_sd(values):.1f}{mark}$")
        lines.append(" & ".join([_escaped(row.name), *cells]) + r" \\")
    if study.others:
        lines.append(r"\midrule")
    for other in study.others:
        cells = [_figure(other.figures.get(label)) for label in labels]
        lines.append(" & ".join([_escaped(other.method), *cells]) + rf" \\ % {other.source}")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _seconds(row: Row) -> list[float]:
    return [run.seconds for run in row.runs]


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {_sd(values):.1f}"


def _interval(found: Difference | None) -> str:
    if found is None:
        return "-"
    text = f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"
    return f"**{text}**" if found.is_sure else text


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _escaped(text: str) -> str:
    """Text as LaTeX takes it."""
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text
