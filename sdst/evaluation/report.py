"""Evaluation reports as a table to read."""

from __future__ import annotations

from collections.abc import Mapping

# (heading, rows of (label, where the figure stands in the report))
TABLE = (
    (
        "Moment retrieval",
        (
            ("R1@0.3", ("R1@0.3",)),
            ("R1@0.5", ("R1@0.5",)),
            ("R1@0.7", ("R1@0.7",)),
            ("R5@0.5", ("R5@0.5",)),
            ("R5@0.7", ("R5@0.7",)),
            ("mIoU", ("mIoU",)),
            ("mAP", ("brief", "MR-full-mAP")),
            ("mAP@0.5", ("brief", "MR-full-mAP@0.5")),
            ("mAP@0.75", ("brief", "MR-full-mAP@0.75")),
            ("mAP short", ("brief", "MR-short-mAP")),
            ("mAP middle", ("brief", "MR-middle-mAP")),
            ("mAP long", ("brief", "MR-long-mAP")),
        ),
    ),
    (
        "Highlight detection",
        (
            ("mAP Fair", ("HL-min-Fair", "HL-mAP")),
            ("mAP Good", ("HL-min-Good", "HL-mAP")),
            ("mAP VeryGood", ("HL-min-VeryGood", "HL-mAP")),
            ("HIT@1 Fair", ("HL-min-Fair", "HL-Hit1")),
            ("HIT@1 Good", ("HL-min-Good", "HL-Hit1")),
            ("HIT@1 VeryGood", ("HL-min-VeryGood", "HL-Hit1")),
        ),
    ),
)


def format_report(reports: Mapping[str, dict]) -> str:
    """A table of figures in percent, one column for each named report of `evaluate`.

    Figures that no report has are left out; one that only some have is `-` in the others.
    """
    label_width = max(len(heading) for heading, _ in TABLE) + 2
    widths = [max(len(name), 6) for name in reports]
    lines = []
    for heading, rows in TABLE:
        figures = [(label, [_find(r, path) for r in reports.values()]) for label, path in rows]
        figures = [(label, row) for label, row in figures if any(f is not None for f in row)]
        if not figures:
            continue
        table = [
            (heading, list(reports)),
            *((f"  {label}", map(_cell, row)) for label, row in figures),
        ]
        for label, cells in table:
            columns = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
            lines.append("  ".join([f"{label:<{label_width}}", *columns]))
    return "\n".join(lines)


def _find(report: dict, path: tuple[str, ...]) -> float | None:
    for key in path:
        if key not in report:
            return None
        report = report[key]
    return report


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.2f}"
