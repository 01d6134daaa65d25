"""Two figures: accuracy and inference time against what trains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.studies.runs import FIGURES
from benchmarks.studies.tuning.cost import SETUPS
from benchmarks.studies.tuning.strategies import STRATEGIES
from sdst.plots.style import HAIR, INK, MUTED, SERIES

SHOWN = "R1@0.5"
COLOURS = dict(zip(STRATEGIES, SERIES, strict=False))
PANEL = (5.2, 3.8)  # inches


def plot_accuracy(
    costs: Mapping[str, dict], runs: Mapping[str, Mapping[str, list[dict]]], out: Path
) -> None:
    """Trainable parameters against accuracy, mean and range of seeds; a panel per budget."""
    figure, panels = _panels(len(runs))
    for axes, (budget, by_name) in zip(panels, runs.items(), strict=True):
        for name, found in by_name.items():
            accuracies = [run["brief"][FIGURES[SHOWN]] for run in found]
            x, accuracy = costs[name]["trainable"] / 1e6, statistics.mean(accuracies)
            axes.vlines(x, min(accuracies), max(accuracies), COLOURS[name], lw=2, alpha=0.4)
            _point(axes, name, x, accuracy)
        _label(axes, budget, "trainable parameters (M)", f"{SHOWN} on the demo (%)")
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    _save(figure, panels, out)


def plot_speed(costs: Mapping[str, Mapping[str, dict]], out: Path) -> None:
    """Trainable parameters against the time of a query, with and without the backbone's part."""
    figure, panels = _panels(len(costs))
    for axes, (setup, rows) in zip(panels, costs.items(), strict=True):
        for name, row in rows.items():
            x = row["trainable"] / 1e6
            axes.plot((x, x), (1e3 * row["head"], 1e3 * row["query"]), color=HAIR, zorder=1)
            _point(axes, name, x, 1e3 * row["query"])
            _point(axes, name, x, 1e3 * row["head"], hollow=True)
        axes.set_yscale("log")
        _label(axes, SETUPS[setup].title, "trainable parameters (M)", "CPU ms per query")
    panels[0].plot([], [], "o", color=MUTED, label="from frames")
    panels[0].plot([], [], "o", color=MUTED, mfc="white", label="video encoded before")
    _save(figure, panels, out)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    width, height = PANEL
    figure = Figure(figsize=(count * width, height), facecolor="white", layout="constrained")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _point(axes: Axes, name: str, x: float, y: float, hollow: bool = False) -> None:
    colour = COLOURS[name]
    label = None if hollow else STRATEGIES[name].title
    axes.plot(x, y, "o", ms=8, color=colour, mfc="white" if hollow else colour, label=label)


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.set_xscale("log")
    for axis, scale in ((axes.xaxis, "log"), (axes.yaxis, axes.get_yscale())):
        axis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        if scale == "log":
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(color=HAIR, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, panels: list[Axes], out: Path) -> None:
    """One legend below all panels; the file appears complete or not at all."""
    shown = panels[0].get_legend_handles_labels()
    below = {"loc": "outside lower center", "ncols": len(panels) + 1}
    figure.legend(*shown, **below, frameon=False, fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}")
    FigureCanvasAgg(figure).print_png(temporary)
    temporary.replace(out)
