"""A video's time line, and what is above and below it: a query, frames, the clock."""

from __future__ import annotations

import textwrap
import unicodedata
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sdst.data.video import probe, thumbnails
from sdst.plots.fonts import drawable
from sdst.plots.style import DPI, HAIR, INK, MUTED, WIDTH
from sdst.terminal.times import format_time

MARGIN = 0.45  # inches, as all lengths below
STRIP = 0.95  # thumbnails
LANE = 0.24  # one window
TITLE_LINE = 0.27
GAP = 0.22
LINE = 105  # letters of a query


def title_lines(query: str) -> str:
    """A query in lines; Chinese, Japanese and Korean characters take the place of two."""
    text = drawable(" ".join(query.split()))
    places = len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return textwrap.fill(text, max(1, LINE * len(text) // max(places, 1)))


def title_height(title: str) -> float:
    return TITLE_LINE * (title.count("\n") + 1)


def timeline_axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Axes over the full time line, `height` inches high, `bottom` inches above the foot."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, bottom / total, 1 - 2 * MARGIN / width, height / total))
    axes.set_axis_off()
    return axes


def draw_title(figure: Figure, top: float, title: str) -> float:
    """A query's words below `top` (inches); what is below them, in inches."""
    width, total = figure.get_size_inches()
    figure.text(
        MARGIN / width,
        (top - 0.02) / total,
        title,
        fontsize=12.5,
        fontweight="bold",
        color=INK,
        va="top",
        linespacing=1.25,
        parse_math=False,  # a query may well contain dollars
    )
    return top - title_height(title)


def draw_strip(axes: Axes, video: str | Path, duration: float) -> None:
    """Frames side by side, each cut to its share of the time line, taken at the middle of it."""
    info = probe(video)
    strip_width = WIDTH - 2 * MARGIN
    aspect = min(max(info.width / info.height, 0.8), 1.8)
    count = round(strip_width / (STRIP * aspect))
    slot = duration / count
    pictures = thumbnails(video, slot, height=round(STRIP * DPI))
    for i, picture in enumerate(islice(pictures, count)):
        picture = _crop(picture, strip_width / count / STRIP)
        axes.imshow(
            picture, extent=(i * slot, (i + 1) * slot, 0, 1), aspect="auto", interpolation="lanczos"
        )
        if i:
            axes.axvline(i * slot, color="white", linewidth=1.5)
    axes.set(xlim=(0, duration), ylim=(0, 1))


def _crop(picture: np.ndarray, aspect: float) -> np.ndarray:
    """The central part of a frame `[H, W, 3]` with the given width over height."""
    height, width = picture.shape[:2]
    new_width = min(width, round(height * aspect))
    new_height = min(height, round(width / aspect))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return picture[top : top + new_height, left : left + new_width]


def label_place(start: float, end: float, duration: float) -> tuple[float, str, bool]:
    """Where a bar's label goes, which of its sides is fixed there, and whether it is on the bar."""
    if end < 0.82 * duration:
        return end, "left", False
    if start > 0.18 * duration:
        return start, "right", False
    return end, "right", True


def draw_clock(axes: Axes, duration: float) -> None:
    """The time axis below everything."""
    axes.set_axis_on()
    axes.set(xlim=(0, duration), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(HAIR)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: clock(value, tenths=False)))
    axes.tick_params(axis="x", colors=MUTED, labelsize=9, length=4, color=HAIR)


def clock(seconds: float, tenths: bool = True) -> str:

    text = format_time(seconds)
    return text if tenths else text.removesuffix(".0")
