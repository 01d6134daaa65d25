"""A training run: the curves of its validations, and how its probabilities hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdst.plots.saving import check_picture_name, save
from sdst.plots.style import HAIR, INK, MOMENT, MUTED, SERIES, WIDTH

RELIABLE = {"presence": "sentence is in the video", "windows": "moment has IoU of 0.5 or more"}


def plot_curves(history: Sequence[dict], out: str | Path) -> None:
    """Draw a run's validations: the losses on the left, figures of the reports on the right.

    Args:
        history: records with `epoch`, `losses` and `val`, both name -> value, the second in %.
        out: an image file.
    """
    check_picture_name(out)
    figure = Figure(figsize=(WIDTH, 4.2), facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [record["epoch"] for record in history]
    _draw_series(left, epochs, [record["losses"] for record in history], "training loss")
    _draw_series(right, epochs, [record["val"] for record in history], "validation (%)")
    left.set_yscale("log")
    right.set_ylim(0, 100)
    save(figure, out)


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
    save(figure, out)


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
