"""Evaluation reports as a table to read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# Where each figure stands in a report, by the label that it has in tables.
FIGURES = {
    "R1@0.3": ("R1@0.3",),
    "R1@0.5": ("R1@0.5",),
    "R1@0.7": ("R1@0.7",),
    "R5@0.3": ("R5@0.3",),
    "R5@0.5": ("R5@0.5",),
    "R5@0.7": ("R5@0.7",),
    "mIoU": ("mIoU",),
    "mAP": ("brief", "MR-full-mAP"),
    "mAP@0.5": ("brief", "MR-full-mAP@0.5"),
    "mAP@0.75": ("brief", "MR-full-mAP@0.75"),
    "mAP short": ("brief", "MR-short-mAP"),
    "mAP middle": ("brief", "MR-middle-mAP"),
    "mAP long": ("brief", "MR-long-mAP"),
    "HD mAP": ("brief", "mAP"),  # of all domains
    "HD mAP Fair": ("HL-min-Fair", "HL-mAP"),
    "HD mAP Good": ("HL-min-Good", "HL-mAP"),
    "HD mAP VeryGood": ("HL-min-VeryGood", "HL-mAP"),
    "HIT@1 Fair": ("HL-min-Fair", "HL-Hit1"),
    "HIT@1 Good": ("HL-min-Good", "HL-Hit1"),
    "HIT@1 VeryGood": ("HL-min-VeryGood", "HL-Hit1"),
}


def format_report(
    reports: Mapping[str, dict], title: str = "", headline: Sequence[str] = ()
) -> str:
    """A table of figures in percent, one column for each named report of `sdst.evaluation`.

    Figures that no report has are left out; one that only some have is `-` in the others.

    Args:
        title: of the section on top.
        headline: labels of the figures in it; the others follow by kind.
    """
    paths = FIGURES | _domains(reports.values())
    found = {label: [_find(r, path) for r in reports.values()] for label, path in paths.items()}
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
            columns = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join([f"{label:<{label_width}}", *columns]))
    return "\n".join(lines)


def _domains(reports: Iterable[dict]) -> dict[str, tuple[str, ...]]:
    """`FIGURES` of single domains."""
    return {name: ("domains", name) for report in reports for name in report.get("domains", {})}


def _kind(label: str) -> str:
    if label not in FIGURES:
        return "By domain"
    return "Highlight detection" if label.startswith(("HD", "HIT")) else "Moment retrieval"


def _find(report: dict, path: tuple[str, ...]) -> float | None:
    for key in path:
        if key not in report:
            return None
        report = report[key]
    return report


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
