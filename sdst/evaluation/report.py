"""Evaluation reports as a table to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

_TOP, _IOU = (1, 5, 10, 50, 100), (0.1, 0.3, 0.5, 0.7)
# The key of each figure in `figures_of` a report, by the label that it has in tables and figures.
FIGURES = {
    **{label: label for k in _TOP for t in _IOU for label in [f"R{k}@{t}"]},
    "Rank@1": "Rank@1",  # of DiDeMo's segments
    "Rank@5": "Rank@5",
    "mIoU": "mIoU",
    "mIoP": "mIoP",
    "IoP@0.3": "IoP@0.3",
    "IoP@0.5": "IoP@0.5",
    "mAP": "MR-full-mAP",
    "mAP@0.5": "MR-full-mAP@0.5",
    "mAP@0.75": "MR-full-mAP@0.75",
    "mAP short": "MR-short-mAP",
    "mAP middle": "MR-middle-mAP",
    "mAP long": "MR-long-mAP",
    "HD mAP": "mAP",  # of all domains
    "HD mAP Fair": "HL-min-Fair-mAP",
    "HD mAP Good": "HL-min-Good-mAP",
    "HD mAP VeryGood": "HL-min-VeryGood-mAP",
    "HIT@1 Fair": "HL-min-Fair-Hit1",
    "HIT@1 Good": "HL-min-Good-Hit1",
    "HIT@1 VeryGood": "HL-min-VeryGood-Hit1",
    "AUROC": "presence-AUROC",
}


def figures_of(report: dict) -> dict[str, float]:
    """The single figures of a report of `sdst.evaluation`: brief, recall, domains."""
    recall = {key: value for key, value in report.items() if not isinstance(value, dict)}
    return report["brief"] | recall | report.get("domains", {})


def labelled(figures: Mapping[str, float], labels: Iterable[str]) -> dict[str, float]:
    """Those of `figures_of` a report that `labels` ask for, by label, as far as there are some."""
    return {label: figures[FIGURES[label]] for label in labels if FIGURES[label] in figures}


def format_report(
    reports: Mapping[str, dict], title: str = "", headline: Sequence[str] = ()
) -> str:
    """A table of figures in percent, one column for each named report of `sdst.evaluation`.

    Figures that no report has are left out; one that only some have is `-` in the others.

    Args:
        title: of the section on top.
        headline: labels of the figures in it; the others follow by kind.
    """
    columns = [figures_of(report) for report in reports.values()]
    domains = {name: name for report in reports.values() for name in report.get("domains", {})}
    keys = FIGURES | domains
    found = {label: [column.get(key) for column in columns] for label, key in keys.items()}
    found = {label: row for label, row in found.items() if any(f is not None for f in row)}
    sections: dict[str, list[str]] = {title: [label for label in headline if label in found]}
    for label in found:
        if label not in headline:
            sections.setdefault(_kind(label), []).append(label)

    label_width = max(map(len, (*found, *sections))) + 2
    widths = [max(len(name), 6) for name in reports]
    lines = []
    for heading, labels in sections.items():
        rows = [(f"  {label}", map(_cell, found[label])) for label in labels]
        for label, cells in [(heading, list(reports)), *rows] if rows else []:
            padded = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join([f"{label:<{label_width}}", *padded]))
    return "\n".join(lines)


def _kind(label: str) -> str:
    if label not in FIGURES:
        return "By domain"
    if label == "AUROC":
        return "Own sentence or another video's"
    return "Highlight detection" if label.startswith(("HD", "HIT")) else "Moment retrieval"


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
