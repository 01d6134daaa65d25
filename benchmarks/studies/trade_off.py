"""`python -m benchmarks.studies.trade_off`: cost and gain of sparse context and schedules.

The paper's block and three schedules under a sparse context are trained on the demo (its own
recipe, evaluated on `--videos` test videos) and, with `--annotations DIR`, on planted QVHighlights
(see `benchmarks.studies.planted`), with the same data, budget and seeds. All rows read the stream
and move references as the paper does, whatever the recipe has, so that they differ in context and
schedule alone. Time and memory are of a
training step and a forward pass at the paper's size, 32 videos of QVHighlights, turn by turn. The
table goes to the screen, the figure to `--plot`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.measuring.interleave import interleave
from benchmarks.measuring.steps import TrainingStep, forward_pass
from benchmarks.studies import planted
from benchmarks.studies.runs import FIGURES, TEST_VIDEOS, cell, trained, trained_on_demo
from sdst.config import load_config
from sdst.errors import run
from sdst.memory import peak_memory
from sdst.plots import check_picture_name

SHOWN = ("R1@0.5", "MR mAP", "HIT@1")
BATCH = 32


@dataclass(frozen=True)
class Variant:
    """A side-tuner to be compared.

    Args:
        context: `none` or `sparse`.
        first: temporal stride of the first step, halved at every step down to 1.
    """

    context: str
    first: int

    def __str__(self) -> str:
        return f"context {self.context}, strides from {self.first}"

    def options(self, layers: int) -> list[str]:
        """Changes to a recipe with `layers` steps."""
        strides = [max(self.first >> step, 1) for step in range(layers)]
        context = ["--model.context", self.context, "--model.schedule", str(strides)]
        return [*planted.PAPER, *context]


CONTEXTS = ("none", "sparse")
VARIANTS = [Variant("none", 1), *(Variant("sparse", first) for first in (1, 4, 8))]


def train_all(
    folder: Path, seeds: int, recipe: str, train: Callable[[Path, int, list[str]], dict]
) -> dict[Variant, list[dict]]:
    """The reports of every variant with every seed; finished runs are read from `folder`.

    Args:
        train: gives the metrics of a run in a folder, of a seed and with changes in the recipe.
    """
    layers = load_config(recipe).model.layers
    reports: dict[Variant, list[dict]] = {variant: [] for variant in VARIANTS}
    for seed in range(seeds):
        for variant in VARIANTS:
            output = folder / f"{variant.context}-{variant.first}-seed{seed}"
            metrics = train(output, seed, variant.options(layers))
            reports[variant].append(metrics["report"]["brief"])
    return reports


@dataclass(frozen=True)
class Cost:
    """Median seconds and peak bytes at the paper's size."""

    step: float
    forward: float
    memory: int


def measure_costs(rounds: int) -> dict[Variant, Cost]:
    """Training step and forward pass of every variant, in turns."""
    steps: dict[Variant, Callable[[], object]] = {}
    forwards: dict[Variant, Callable[[], object]] = {}
    memory: dict[Variant, int] = {}
    for variant in VARIANTS:
        config = load_config("qvhighlights_internvideo2", variant.options(layers=5))
        train = steps[variant] = TrainingStep(config, BATCH)
        forwards[variant] = forward_pass(config, BATCH)
        train()
        memory[variant] = peak_memory(train)
    step, forward = (interleave(calls, rounds) for calls in (steps, forwards))
    return {
        variant: Cost(
            statistics.median(step[variant]), statistics.median(forward[variant]), memory[variant]
        )
        for variant in VARIANTS
    }


def table(
    costs: dict[Variant, Cost], reports: dict[str, dict[Variant, list[dict]]], title: str
) -> str:
    """A line for every variant, times as shares of the paper's block's."""
    figures = [f"{data} {name}" for data in reports for name in SHOWN]
    lines = [
        f"| {title} | step | forward | memory of a step | {' | '.join(figures)} |",
        "|---" * (4 + len(figures)) + "|",
    ]
    paper = costs[VARIANTS[0]]
    for variant, cost in costs.items():
        cells = [
            cell([run[FIGURES[name]] for run in runs[variant]])
            for runs in reports.values()
            for name in SHOWN
        ]
        lines.append(
            f"| {variant} | {cost.step / paper.step:.2f} | {cost.forward / paper.forward:.2f} "
            f"| {cost.memory / 2**20:.0f} MiB | {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def draw(
    costs: dict[Variant, Cost], reports: dict[str, dict[Variant, list[dict]]], file: Path
) -> None:
    """Accuracy over the time of a step, a panel for each dataset; a disc's area is the memory."""
    figure = Figure(figsize=(5.2 * len(reports), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(reports), squeeze=False)[0]
    for axes, (data, runs) in zip(panels, reports.items(), strict=True):
        _draw_panel(axes, costs, runs)
        axes.set_title(data)
        axes.set_xlabel("time of a training step, the paper's block = 1")
        axes.set_ylabel("moment retrieval mAP")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside upper center",
        ncols=2,
        title="number: temporal stride of the first step; disc: memory of a training step",
    )
    figure.savefig(file, dpi=110)


def _draw_panel(axes: Axes, costs: dict[Variant, Cost], runs: dict[Variant, list[dict]]) -> None:
    paper = costs[VARIANTS[0]]
    for number, context in enumerate(CONTEXTS):
        chosen = [variant for variant in VARIANTS if variant.context == context]
        time = [costs[variant].step / paper.step for variant in chosen]
        scores = [[run[FIGURES["MR mAP"]] for run in runs[variant]] for variant in chosen]
        mean = [statistics.mean(seeds) for seeds in scores]
        spread = [statistics.stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in scores]
        color = f"C{number}"
        axes.errorbar(time, mean, spread, color=color, capsize=3, label=f"context {context}")
        size = [500 * costs[variant].memory / paper.memory for variant in chosen]
        axes.scatter(time, mean, size, color=color, alpha=0.25, linewidths=0)
        for variant, x, y in zip(chosen, time, mean, strict=True):
            axes.annotate(f"{variant.first}", (x, y), (6, 6), textcoords="offset points")
    axes.grid(linewidth=0.3)


def main() -> None:
    """Train what is not there yet, measure, print the table and draw the figure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.trade_off", description=__doc__
    )
    add = parser.add_argument
    add("--annotations", type=Path, metavar="DIR", help="of QVHighlights; without it the demo only")
    add("--output", type=Path, default=Path("runs/trade_off"), help="finished runs are kept there")
    add("--seeds", type=int, default=3)
    add("--videos", type=int, default=TEST_VIDEOS, help="of the demo (default: %(default)s)")
    add("--epochs", type=int, default=10, help="on planted QVHighlights (default: %(default)s)")
    add("--rounds", type=int, default=5, help="of the timing (default: %(default)s)")
    add("--plot", type=Path, default=Path("trade_off.png"))
    options = parser.parse_args()
    check_picture_name(options.plot)

    def on_demo(output: Path, seed: int, changes: list[str]) -> dict:
        return trained_on_demo(output, ["--train.seed", str(seed), *changes], options.videos)

    def on_planted(output: Path, seed: int, changes: list[str]) -> dict:
        return trained(output, planted.RECIPE, [*planted.options_of(budget, seed), *changes])

    folder, seeds = options.output, options.seeds
    reports = {"demo": train_all(folder / "demo", seeds, "demo", on_demo)}
    if options.annotations:
        budget = planted.Budget(
            options.annotations, None, folder / "planted", epochs=options.epochs
        )
        planted.pack(budget)
        found = train_all(budget.output, seeds, planted.RECIPE, on_planted)
        reports["planted QVHighlights"] = found
    costs = measure_costs(options.rounds)
    print(table(costs, reports, f"{options.seeds} seeds"))
    draw(costs, reports, options.plot)


if __name__ == "__main__":
    run(main)
