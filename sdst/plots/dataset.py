"""A dataset: how long and where its moments are, and some queries on their time lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdst.data.annotations import MAX_RATING, Annotation
from sdst.plots.saving import check_picture_name, save
from sdst.plots.style import CURVE, HAIR, INK, MOMENT, MUTED, SERIES, WIDTH
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

PANEL_ROW = 2.6  # inches of a row of histograms with its titles
RATINGS = 0.4
CLOCK = 0.38


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
        videos: files of the examples' videos, as far as they exist.
        clip_length: seconds per clip; without it ratings are not drawn.
        out: an image file.
    """
    check_picture_name(out)
    titles = [title_lines(example.query) for example in examples]
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
    save(figure, out)


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
    return GAP + title_height(title) + has_video * STRIP + ratings + LANE + CLOCK


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
    top = draw_title(figure, top - GAP, title)
    if video is not None:
        draw_strip(timeline_axes(figure, top - STRIP, STRIP), video, example.duration)
        top -= STRIP
    if _is_rated(example, clip_length):
        _draw_ratings(timeline_axes(figure, top - RATINGS, RATINGS), example, clip_length)
        top -= RATINGS
    _draw_moments(timeline_axes(figure, top - LANE, LANE), example)
    draw_clock(timeline_axes(figure, top - LANE, 0.01), example.duration)


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
        words = f"{clock(start, tenths=False)} \N{EN DASH} {clock(end, tenths=False)}"
        if end - start > 0.1 * duration:
            place, side, color = ((start + end) / 2, "center", "white")
        elif len(windows) == 1:
            x, side, _ = label_place(start, end, duration)
            place, color = x, INK
        else:
            continue
        shift = {"left": 5, "center": 0, "right": -5}[side]
        style = {"ha": side, "va": "center", "fontsize": 8.5, "color": color}
        axes.annotate(words, (place, 0), (shift, 0), textcoords="offset points", **style)
    axes.set(xlim=(0, duration), ylim=(-0.5, 0.5))
