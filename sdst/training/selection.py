"""The figure that decides which checkpoint is best."""

from __future__ import annotations

from sdst.errors import InputError


def selected_figure(figures: dict[str, float], name: str) -> float:
    """That of `train.select_by`.

    Raises:
        InputError: a report has none of this name.
    """
    if name not in figures:
        raise InputError(f"train.select_by {name!r}: expected one of {', '.join(sorted(figures))}")
    return figures[name]
