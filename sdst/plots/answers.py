"""Answers: thumbnails of a video along its time line, and a curve and windows for each query."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdst.plots.saving import check_picture_name, save
from sdst.plots.style import CURVE, HAIR, INK, MOMENT, MUTED, WIDTH
from sdst.plots.timeline import (
    GAP,
    LANE,
    MARGIN,
    STRIP,
    clock,
    draw_clock,
    draw_strip,
    draw_title,
    label_place,
    timeline_axes,
    title_height,
    title_lines,
)

CURVE_HEIGHT = 0.85  # inches
FOOT = 0.5


class Answer(Protocol):
    """The part of a `sdst.grounding.answers.Grounding` that is drawn."""

    @property
    def query(self) -> str: ...

    @property
    def moments(self) -> Sequence[Sequence[float]]: ...

    @property
    def saliency(self) -> np.ndarray: ...

    @property
    def clip_length(self) -> float: ...

    @property
    def duration(self) -> float: ...


def plot_groundings(video: str | Path, answers: Sequence[Answer], out: str | Path) -> None:
    """Draw thumbnails of `video` along its time line and, per query, saliency and windows.

    Args:
        video: the file that was asked.
        answers: one row each.
        out: an image file; its ending names the format (png, pdf, svg, ...).
    """
    check_picture_name(out)
    titles = [title_lines(answer.query) for answer in answers]
    heights = [_row_height(t, a) for t, a in zip(titles, answers, strict=True)]
    height = MARGIN + STRIP + sum(heights) + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    duration = answers[0].duration
    top = height - MARGIN
    draw_strip(timeline_axes(figure, top - STRIP, STRIP), video, duration)
    top -= STRIP
    for title, answer, row in zip(titles, answers, heights, strict=True):
        _draw_answer(figure, top, title, answer)
        top -= row
    draw_clock(timeline_axes(figure, top, 0.01), duration)
    save(figure, out)


def _row_height(title: str, answer: Answer) -> float:
    return GAP + title_height(title) + CURVE_HEIGHT + LANE * len(answer.moments)


def _draw_answer(figure: Figure, top: float, title: str, answer: Answer) -> None:
    """One query below `top` (inches): its words, its saliency curve, its windows in lanes."""
    top = draw_title(figure, top - GAP, title)
    curve = timeline_axes(figure, top - CURVE_HEIGHT, CURVE_HEIGHT)
    _draw_saliency(curve, answer)
    lanes = len(answer.moments)
    if lanes:
        bars = timeline_axes(figure, top - CURVE_HEIGHT - LANE * lanes, LANE * lanes)
        _draw_windows(bars, answer)
        start, end, _ = answer.moments[0]
        curve.axvspan(start, end, color=MOMENT, alpha=0.10, linewidth=0)


def _draw_saliency(axes: Axes, answer: Answer) -> None:
    """The curve between its own least and most: cosines are comparable within a video only."""
    curve = np.asarray(answer.saliency, float)
    time = np.minimum((np.arange(len(curve)) + 0.5) * answer.clip_length, answer.duration)
    # To the ends of the video, so that the first and last half clip are not left blank.
    time = np.concatenate(([0.0], time, [answer.duration]))
    curve = np.concatenate((curve[:1], curve, curve[-1:]))
    low, high = curve.min(), max(curve.max(), curve.min() + 1e-6)
    axes.fill_between(time, curve, low, color=CURVE, alpha=0.28, linewidth=0)
    axes.plot(time, curve, color=CURVE, linewidth=1.8, solid_joinstyle="round")
    axes.axhline(low, color=HAIR, linewidth=1.0)
    axes.set(xlim=(0, answer.duration), ylim=(low, high + 0.08 * (high - low)))
    label = {"xycoords": "axes fraction", "fontsize": 7.5, "color": MUTED}
    axes.annotate("saliency", (0, 1), (2, -2), textcoords="offset points", va="top", **label)


def _draw_windows(axes: Axes, answer: Answer) -> None:
    """Bars, best on top, each with its times and score; the better, the stronger its colour."""
    best = max(answer.moments[0][2], 1e-6)
    for lane, (start, end, score) in enumerate(answer.moments):
        strength = 0.25 + 0.75 * min(max(score / best, 0.0), 1.0)
        axes.barh(lane, end - start, 0.56, start, color=MOMENT, alpha=strength, linewidth=0)
        words = f"{clock(start)} \N{EN DASH} {clock(end)}   {score:.2f}"
        x, side, inside = label_place(start, end, answer.duration)
        axes.annotate(
            words,
            (x, lane),
            (5 if side == "left" else -5, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=8.5,
            fontweight="bold" if lane == 0 else "normal",
            color="white" if inside else INK if lane == 0 else MUTED,
        )
    axes.set(xlim=(0, answer.duration), ylim=(len(answer.moments) - 0.5, -0.5))
