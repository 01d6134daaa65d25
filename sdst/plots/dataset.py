"""Figures: answers along a video's time line, the curves of a training run, a dataset."""

from __future__ import annotations

import logging
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sdst.data.annotations import MAX_RATING, Annotation
from sdst.data.video import probe, thumbnails
from sdst.errors import InputError
from sdst.evaluation.report import labelled
from sdst.files.publish import replacing
from sdst.plots.fonts import drawable, families_for, silent
from sdst.terminal.times import format_time

if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounding

INK, MUTED, HAIR = "#1f2933", "#7b8794", "#d9dee4"
CURVE, MOMENT = "#8da2b8", "#d1495b"
SERIES = ("#2f6f8f", "#d1495b", "#e0a030", "#5c8a4c", "#7a5c99", "#7b8794")

WIDTH = 12.0  # inches, as all lengths below
MARGIN = 0.45
STRIP = 0.95  # thumbnails
CURVE_HEIGHT = 0.85
LANE = 0.24  # one window
TITLE_LINE = 0.27
GAP = 0.22
FOOT = 0.5
PANEL_ROW = 2.6  # a row of histograms with its titles
RATINGS = 0.4
CLOCK = 0.38
DPI = 200
LINE = 105  # letters of a query
NAMED = 10  # characters that no font has
RELIABLE = {"presence": "sentence is in the video", "windows": "moment has IoU of 0.5 or more"}

logger = logging.getLogger(__name__)


def plot_groundings(video: str | Path, answers: Sequence[Grounding], out: str | Path) -> None:
    """Draw thumbnails of `video` along its time line and, per query, saliency and windows.

    Args:
        video: the file that was asked.
        answers: one row each.
        out: an image file; its ending names the format (png, pdf, svg, ...).
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


def plot_curves(history: Sequence[dict], headline: Sequence[str], out: str | Path) -> None:
    """Draw a run's validations: the losses on the left, figures of the reports on the right.

    Args:
        history: records with `epoch`, `losses` and `val`, both name -> value.
        headline: labels of the figures to draw, as far as there are some.
        out: an image file.
    """
    check_picture_name(out)
    figure = Figure(figsize=(WIDTH, 4.2), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    figures = [labelled(record["val"], headline) for record in history]
    _draw_series(left, epochs, [record["losses"] for record in history], "training loss")
    _draw_series(right, epochs, figures, "validation (%)")
    left.set_yscale("log")
    right.set_ylim(0, 100)
    _save(figure, out)


def plot_reliability(reliable: Mapping[str, Mapping], out: str | Path) -> None:
    """Draw how often what was given a probability happened, a panel for each probability.

    Args:
        reliable: `bins` and `error` by name, of `sdst.training.calibration.reliabilities`.
        out: an image file.
    """
    check_picture_name(out)
    figure = Figure(figsize=(WIDTH / 2 * len(reliable), 5.2), facecolor="white", layout="tight")
    for number, (name, found) in enumerate(reliable.items(), 1):
        axes = figure.add_subplot(1, len(reliable), number)
        given, happened, share = np.transpose(found["bins"])
        axes.plot((0, 1), (0, 1), color=HAIR, linewidth=1.2)
        axes.plot(given, happened, color=MOMENT, linewidth=1.6, zorder=2)
        axes.scatter(
            given, happened, s=600 * share + 12, color=MOMENT, alpha=0.5, zorder=3, clip_on=False
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.set_xlabel("probability given", color=MUTED)
        axes.set_ylabel("share that it was so; area: how often given", color=MUTED)
        title = f"{RELIABLE[name]}, off by {found['error']:.1f} points"
        axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
        axes.spines[["right", "top"]].set_visible(False)
    _save(figure, out)


def plot_dataset(
    splits: Mapping[str, Sequence[Annotation]],
    examples: Sequence[Annotation],
    videos: Mapping[str, Path],
    clip_length: float | None,
    out: str | Path,
) -> None:
    """Draw how long and where the moments of a dataset are, and some queries on their time lines.

    Args:
        splits: the queries of each, by name.
        examples: labelled queries, one time line each.
        videos: files of the examples' videos, as far as they are there.
        clip_length: seconds per clip; without it ratings are not drawn.
        out: an image file.
    """
    check_picture_name(out)
    titles = [_title(example.query) for example in examples]
    heights = [
        _example_height(title, example, example.vid in videos, clip_length)
        for title, example in zip(titles, examples, strict=True)
    ]
    height = 2 * PANEL_ROW + sum(heights) + MARGIN
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    _draw_panels(figure, splits)
    top = height - 2 * PANEL_ROW
    for title, example, row in zip(titles, examples, heights, strict=True):
        _draw_example(figure, top, title, example, videos.get(example.vid), clip_length)
        top -= row
    _save(figure, out)


def check_picture_name(out: str | Path) -> None:
    """Refuse a name whose ending is no image format, before any work is done."""
    formats = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(out).suffix.lower().lstrip(".")
    if ending not in formats:
        raise InputError(f"{out}: no picture format {ending!r}; expected .png, .pdf or .svg")


def _title(query: str) -> str:
    """A query in lines; Chinese, Japanese and Korean characters take the place of two."""
    text = drawable(" ".join(query.split()))
    places = len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return textwrap.fill(text, max(1, LINE * len(text) // max(places, 1)))


def _row_height(title: str, answer: Grounding) -> float:
    return GAP + _title_height(title) + CURVE_HEIGHT + LANE * len(answer.moments)


def _axes(figure: Figure, bottom: float, height: float) -> Axes:
    """Axes over the full time line, `height` inches high, `bottom` inches above the foot."""
    width, total = figure.get_size_inches()
    axes = figure.add_axes((MARGIN / width, bottom / total, 1 - 2 * MARGIN / width, height / total))
    axes.set_axis_off()
    return axes


def _draw_strip(axes: Axes, video: str | Path, duration: float) -> None:
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


def _draw_answer(figure: Figure, top: float, title: str, answer: Grounding) -> None:
    """One query below `top` (inches): its words, its saliency curve, its windows in lanes."""
    top = _draw_title(figure, top - GAP, title)
    curve = _axes(figure, top - CURVE_HEIGHT, CURVE_HEIGHT)
    _draw_saliency(curve, answer)
    lanes = len(answer.moments)
    if lanes:
        bars = _axes(figure, top - CURVE_HEIGHT - LANE * lanes, LANE * lanes)
        _draw_windows(bars, answer)
        start, end, _ = answer.moments[0]
        curve.axvspan(start, end, color=MOMENT, alpha=0.10, linewidth=0)


def _draw_title(figure: Figure, top: float, title: str) -> float:
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
    return top - _title_height(title)


def _title_height(title: str) -> float:
    return TITLE_LINE * (title.count("\n") + 1)


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
    best = max(answer.moments[0][2], 1e-6)
    for lane, (start, end, score) in enumerate(answer.moments):
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
    axes.set(xlim=(0, answer.duration), ylim=(len(answer.moments) - 0.5, -0.5))


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

    text = format_time(seconds)
    return text if tenths else text.removesuffix(".0")


def _draw_series(
    axes: Axes, epochs: Sequence[int], values: Sequence[Mapping[str, float]], title: str
) -> None:
    """A line for every name that occurs in the `values` of any of the `epochs`."""
    for i, name in enumerate(dict.fromkeys(name for found in values for name in found)):
        axes.plot(
            epochs,
            [found.get(name, np.nan) for found in values],
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
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        handlelength=3.5,  # that dashes show
    )


def _draw_panels(figure: Figure, splits: Mapping[str, Sequence[Annotation]]) -> None:
    """Two rows of three: histograms, one line per split, and where the moments lie."""
    moments = {
        name: np.array([(*w, a.duration) for a in found for w in a.windows or ()]).reshape(-1, 3)
        for name, found in splits.items()
    }
    durations = {name: {a.vid: a.duration for a in found} for name, found in splits.items()}
    panels = (
        ("moment length (s)", {name: m[:, 1] - m[:, 0] for name, m in moments.items()}),
        (
            "moment / video length (%)",
            {n: 100 * (m[:, 1] - m[:, 0]) / m[:, 2] for n, m in moments.items()},
        ),
        ("video length (s)", {name: list(found.values()) for name, found in durations.items()}),
        (
            "windows per query",
            {n: [len(a.windows) for a in f if a.windows] for n, f in splits.items()},
        ),
        ("words per query", {n: [len(a.query.split()) for a in f] for n, f in splits.items()}),
    )
    for i, (title, values) in enumerate(panels):
        axes = _panel(figure, i, title)
        _draw_histogram(axes, values, whole=title.endswith("query"))
        if i == 0 and axes.patches:
            axes.legend(fontsize=9, labelcolor=INK, loc="upper right", edgecolor="none")
    everything = np.concatenate(list(moments.values()))
    _draw_positions(_panel(figure, len(panels), "where moments begin and end (%)"), everything)


def _panel(figure: Figure, index: int, title: str) -> Axes:
    """The axes of a panel; they are numbered along two rows of three."""
    width, total = figure.get_size_inches()
    row, column = divmod(index, 3)
    step = (width - MARGIN) / 3
    left = MARGIN + column * step
    bottom = total - (row + 1) * PANEL_ROW + 0.45
    axes = figure.add_axes(
        (left / width, bottom / total, (step - MARGIN) / width, (PANEL_ROW - 0.95) / total)
    )
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK)
    axes.spines[["right", "top", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(HAIR)
    axes.tick_params(colors=MUTED, labelsize=9, color=HAIR)
    return axes


def _draw_histogram(
    axes: Axes, values: Mapping[str, Sequence[float] | np.ndarray], whole: bool
) -> None:
    """Shares of each split's values, up to the 99th percentile; the last bin has what is above.

    Args:
        whole: the values are whole numbers, with a bin each.
    """
    everything = np.concatenate([np.asarray(v, float) for v in values.values()])
    if not len(everything):
        axes.set_axis_off()
        return
    top = np.quantile(everything, 0.99)
    edges = np.arange(0.5, max(round(top), 5) + 1) if whole else np.linspace(0, top, 41)
    inside = (edges[:-1] + edges[1:]) / 2
    for i, (name, found) in enumerate(values.items()):
        if len(found):
            clipped = np.clip(found, inside[0], inside[-1])
            shares = np.histogram(clipped, edges)[0] / len(found)
            axes.stairs(shares, edges, fill=True, color=SERIES[i % len(SERIES)], alpha=0.18)
            axes.stairs(shares, edges, color=SERIES[i % len(SERIES)], linewidth=1.6, label=name)
    axes.set(yticks=[], xlim=(edges[0], edges[-1]), ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    if everything.max() > 2 * edges[-1] - edges[-2]:
        axes.set_xlabel("and above", loc="right", fontsize=8, color=MUTED, labelpad=1)


def _draw_positions(axes: Axes, moments: np.ndarray) -> None:
    """How many moments [N, 3] (start, end, duration) begin and end where, in their video."""
    start, end = (100 * moments[:, :2] / moments[:, 2:]).T
    edges = np.linspace(0, 100, 41)
    counts, _, _ = np.histogram2d(start, end, bins=(edges, edges))
    shown = np.ma.masked_equal(counts.T, 0)
    scale = LogNorm(vmin=0.3, vmax=max(counts.max(), 1))  # so that one moment is no blank
    axes.pcolormesh(edges, edges, shown, norm=scale, cmap="GnBu")
    axes.plot((0, 100), (0, 100), color=HAIR, linewidth=1.0)
    axes.set_xlabel("begin", fontsize=9, color=MUTED, labelpad=1)
    axes.set_ylabel("end", fontsize=9, color=MUTED, labelpad=1)


def _example_height(
    title: str, example: Annotation, has_video: bool, clip_length: float | None
) -> float:
    ratings = RATINGS if _is_rated(example, clip_length) else 0
    return GAP + _title_height(title) + has_video * STRIP + ratings + LANE + CLOCK


def _draw_example(
    figure: Figure,
    top: float,
    title: str,
    example: Annotation,
    video: Path | None,
    clip_length: float | None,
) -> None:
    """A labelled query below `top` (inches): its words, video, ratings and windows."""
    width, total = figure.get_size_inches()
    name = f"{example.vid}, qid {example.qid}"
    place = (1 - MARGIN / width, (top - GAP + 0.05) / total)
    figure.text(*place, name, fontsize=8.5, color=MUTED, ha="right", parse_math=False)
    top = _draw_title(figure, top - GAP, title)
    if video is not None:
        _draw_strip(_axes(figure, top - STRIP, STRIP), video, example.duration)
        top -= STRIP
    if _is_rated(example, clip_length):
        _draw_ratings(_axes(figure, top - RATINGS, RATINGS), example, clip_length)
        top -= RATINGS
    _draw_moments(_axes(figure, top - LANE, LANE), example)
    _draw_clock(_axes(figure, top - LANE, 0.01), example.duration)


def _is_rated(example: Annotation, clip_length: float | None) -> bool:
    """Whether there are ratings whose place in time is known."""
    return example.labels is not None or bool(clip_length and example.saliency)


def _draw_ratings(axes: Axes, example: Annotation, clip_length: float | None) -> None:
    """The mean rating of every clip, of at most 4, or its mean label, of at most the greatest."""
    if example.labels is not None:
        values, most = np.mean(example.labels, axis=1), np.max(example.labels)
        edges = np.linspace(0, example.duration, len(values) + 1)
    else:
        assert clip_length is not None  # as `_is_rated` sees
        clips = int(np.ceil(example.duration / clip_length))
        values, most = example.saliency_per_clip(clips), MAX_RATING
        edges = np.minimum(np.arange(clips + 1) * clip_length, example.duration)
    axes.stairs(values, edges, fill=True, color=CURVE, alpha=0.45)
    axes.set(xlim=(0, example.duration), ylim=(0, 1.1 * most))
    style = {"ha": "right", "va": "center", "fontsize": 7.5, "color": MUTED}
    axes.annotate("rating", (0, most / 2), (-4, 0), textcoords="offset points", **style)


def _draw_moments(axes: Axes, example: Annotation) -> None:
    """All windows in one lane, with their times where there is room."""
    duration = example.duration
    windows = example.windows or ()
    for start, end in windows:
        axes.barh(0, end - start, 0.7, start, color=MOMENT, linewidth=0)
        words = f"{_clock(start, tenths=False)} \N{EN DASH} {_clock(end, tenths=False)}"
        if end - start > 0.1 * duration:
            place, side, color = ((start + end) / 2, "center", "white")
        elif len(windows) == 1:
            x, side, _ = _label_place(start, end, duration)
            place, color = x, INK
        else:
            continue
        shift = {"left": 5, "center": 0, "right": -5}[side]
        style = {"ha": side, "va": "center", "fontsize": 8.5, "color": color}
        axes.annotate(words, (place, 0), (shift, 0), textcoords="offset points", **style)
    axes.set(xlim=(0, duration), ylim=(-0.5, 0.5))


def _choose_fonts(figure: Figure, out: str | Path) -> None:
    """Draw all text in fonts that have its characters; what none has is named."""
    texts = figure.findobj(Text)
    for text in texts:
        text.set_text(drawable(text.get_text()))
    families, missing = families_for("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_fontfamily(families)
    if missing:
        logger.warning(
            "%s: no font here has %s%s, drawn as boxes; install one, such as Noto Sans",
            out,
            " ".join(missing[:NAMED]),
            f" and {len(missing) - NAMED} more characters" if len(missing) > NAMED else "",
        )


def _save(figure: Figure, out: str | Path) -> None:
    """Write the figure, whole or not at all."""
    with replacing(out) as file, silent():
        _choose_fonts(figure, out)
        figure.savefig(file, dpi=DPI, format=Path(out).suffix.lower().lstrip("."))
