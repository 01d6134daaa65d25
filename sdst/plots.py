"""Pictures: the answers to queries along a video's time line, and the curves of a training run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sdst.data.video import probe, thumbnails
from sdst.errors import InputError

if TYPE_CHECKING:
    from sdst.ground import Grounding

INK, MUTED, HAIR = "#1f2933", "#7b8794", "#d9dee4"
CURVE, MOMENT = "#8da2b8", "#d1495b"
SERIES = ("#2f6f8f", "#d1495b", "#e0a030", "#5c8a4c", "#7a5c99", "#7b8794")

# Of the whole report, what a curve is drawn of.
HEADLINES = (
    "MR-full-R1@0.5",
    "MR-full-R1@0.7",
    "MR-full-mAP",
    "mIoU",
    "HL-min-VeryGood-mAP",
    "HL-min-VeryGood-Hit1",
)

WIDTH = 12.0  # inches, as all lengths below
MARGIN = 0.45
STRIP = 0.95  # thumbnails
CURVE_HEIGHT = 0.85
LANE = 0.24  # one window
TITLE_LINE = 0.27
GAP = 0.22
FOOT = 0.5
DPI = 200


def plot_groundings(video: str | Path, answers: Sequence[Grounding], out: str | Path) -> None:
    """Draw thumbnails of `video` along its time line and, per query, saliency and windows.

    Args:
        video: the file that was asked.
        answers: one row each.
        out: a picture file; its ending names the format (png, pdf, svg, ...).
    """
    check_picture_name(out)
    titles = [_title(answer.query) for answer in answers]
    heights = [_row_height(t, a) for t, a in zip(titles, answers, strict=True)]
    height = MARGIN + STRIP + sum(heights) + FOOT
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    duration = answers[0].duration
    top = height - MARGIN
    _draw_strip(_axes(figure, top - STRIP, STRIP), video, duration)
    top -= STRIP
    for title, answer, row in zip(titles, answers, heights, strict=True):
        _draw_answer(figure, top, title, answer)
        top -= row
    _draw_clock(_axes(figure, top, 0.01), duration)
    _save(figure, out)


def plot_curves(history: Sequence[dict], out: str | Path) -> None:
    """Draw a run's validations: the losses on the left, the figures of the report on the right.

    Args:
        history: records with `epoch`, `losses` and `val`, both name -> value.
        out: a picture file.
    """
    check_picture_name(out)
    figure = Figure(figsize=(WIDTH, 4.2), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_series(left, history, "losses", list(history[-1]["losses"]), "training loss")
    _draw_series(right, history, "val", HEADLINES, "validation (%)")
    left.set_yscale("log")
    right.set_ylim(0, 100)
    _save(figure, out)


def check_picture_name(out: str | Path) -> None:
    """Refuse a name whose ending is no picture format, before any work is done."""
    formats = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(out).suffix.lower().lstrip(".")
    if ending not in formats:
        raise InputError(f"{out}: no picture format {ending!r}; expected .png, .pdf or .svg")


def _title(query: str) -> str:
    return textwrap.fill(" ".join(query.split()), 105)


def _row_height(title: str, answer: Grounding) -> float:
    lines = title.count("\n") + 1
    return GAP + lines * TITLE_LINE + CURVE_HEIGHT + LANE * len(answer.windows)


def _axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Axes over the full time line, `height` inches high, `bottom` inches above the foot."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, bottom / total, 1 - 2 * MARGIN / width, height / total))
    axes.set_axis_off()
    return axes


def _draw_strip(axes: Axes, video: str | Path, duration: float) -> None:
    """Pictures side by side, each cut to its share of the time line, taken at the middle of it."""
    info = probe(video)
    strip_width = WIDTH - 2 * MARGIN
    aspect = min(max(info.width / info.height, 0.8), 1.8)
    count = round(strip_width / (STRIP * aspect))
    slot = duration / count
    pictures = thumbnails(video, (np.arange(count) + 0.5) * slot, height=round(STRIP * DPI))
    for i, picture in enumerate(pictures):
        picture = _crop(picture, strip_width / count / STRIP)
        axes.imshow(
            picture, extent=(i * slot, (i + 1) * slot, 0, 1), aspect="auto", interpolation="lanczos"
        )
        if i:
            axes.axvline(i * slot, color="white", linewidth=1.5)
    axes.set(xlim=(0, duration), ylim=(0, 1))


def _crop(picture: np.ndarray, aspect: float) -> np.ndarray:
    """The central part of a picture `[H, W, 3]` with the given width over height."""
    height, width = picture.shape[:2]
    new_width = min(width, round(height * aspect))
    new_height = min(height, round(width / aspect))
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return picture[top : top + new_height, left : left + new_width]


def _draw_answer(figure: Figure, top: float, title: str, answer: Grounding) -> None:
    """One query below `top` (inches): its words, its saliency curve, its windows in lanes."""
    lines = title.count("\n") + 1
    width, total = figure.get_size_inches()
    top -= GAP
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
    top -= lines * TITLE_LINE
    curve = _axes(figure, top - CURVE_HEIGHT, CURVE_HEIGHT)
    _draw_saliency(curve, answer)
    lanes = len(answer.windows)
    if lanes:
        bars = _axes(figure, top - CURVE_HEIGHT - LANE * lanes, LANE * lanes)
        _draw_windows(bars, answer)
        start, end, _ = answer.windows[0]
        curve.axvspan(start, end, color=MOMENT, alpha=0.10, linewidth=0)


def _draw_saliency(axes: Axes, answer: Grounding) -> None:
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


def _draw_windows(axes: Axes, answer: Grounding) -> None:
    """Bars, best on top, each with its times and score; the better, the stronger its colour."""
    best = max(answer.windows[0][2], 1e-6)
    for lane, (start, end, score) in enumerate(answer.windows):
        strength = 0.25 + 0.75 * min(max(score / best, 0.0), 1.0)
        axes.barh(lane, end - start, 0.56, start, color=MOMENT, alpha=strength, linewidth=0)
        words = f"{_clock(start)} \N{EN DASH} {_clock(end)}   {score:.2f}"
        x, side, inside = _label_place(start, end, answer.duration)
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
    axes.set(xlim=(0, answer.duration), ylim=(len(answer.windows) - 0.5, -0.5))


def _label_place(start: float, end: float, duration: float) -> tuple[float, str, bool]:
    """Where a bar's label goes, which of its sides is fixed there, and whether it is on the bar."""
    if end < 0.82 * duration:
        return end, "left", False
    if start > 0.18 * duration:
        return start, "right", False
    return end, "right", True


def _draw_clock(axes: Axes, duration: float) -> None:
    """The time axis below everything."""
    axes.set_axis_on()
    axes.set(xlim=(0, duration), yticks=[])
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(HAIR)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _clock(value, tenths=False)))
    axes.tick_params(axis="x", colors=MUTED, labelsize=9, length=4, color=HAIR)


def _clock(seconds: float, tenths: bool = True) -> str:
    from sdst.ground import format_time

    text = format_time(seconds)
    return text if tenths else text.removesuffix(".0")


def _draw_series(
    axes: Axes, history: Sequence[dict], part: str, names: Sequence[str], title: str
) -> None:
    epochs = [record["epoch"] for record in history]
    for i, name in enumerate(names):
        values = [record[part].get(name, np.nan) for record in history]
        axes.plot(
            epochs,
            values,
            color=SERIES[i % len(SERIES)],
            linestyle=("-", "--", ":")[i // len(SERIES) % 3],
            linewidth=1.8,
            marker="o",
            markersize=3,
            label=name,
        )
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.set_xlabel("epoch", color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["right", "top"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(HAIR)
    axes.tick_params(colors=MUTED, labelsize=9)
    axes.grid(axis="y", color=HAIR, linewidth=0.6)
    axes.legend(
        frameon=False, fontsize=8, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0)
    )


def _save(figure: Figure, out: str | Path) -> None:
    """Write the picture under a temporary name, then give it its own."""
    out = Path(out)
    temporary = out.with_name(f".{out.name}")
    try:
        figure.savefig(temporary, dpi=DPI, format=out.suffix.lower().lstrip("."))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
