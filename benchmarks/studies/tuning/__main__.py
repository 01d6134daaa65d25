"""`python -m benchmarks.studies.tuning`: side-tuning against the other ways of adapting a backbone.

All strategies have the same demo data, batches, optimiser and losses, and as much training time as
`--steps` of side-tuning take, or as many queries. The head on the last layer is SDST's
block run once on the mean token of every clip, and LoRA and full fine-tuning train the backbone
below that same head. What they cost is also measured on ViT-B/32 at QVHighlights' size, with random
weights. A finished run is read and not repeated, so the command resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.studies.runs import FIGURES, TEST_VIDEOS, cell
from benchmarks.studies.tuning.cost import QUERIES, SETUPS
from benchmarks.studies.tuning.figures import plot_accuracy, plot_speed
from benchmarks.studies.tuning.strategies import STRATEGIES
from sdst.errors import run

REFERENCE = "sdst"  # whose training time all get under `time`
BUDGETS = ("time", "queries")
SAME_TIME = 0.1  # runs closer in time than this share are not repeated

Result = dict


def main() -> None:
    """Run what is not yet there; print the tables in Markdown and draw the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.tuning", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("runs/tuning"))
    parser.add_argument("--figures", type=Path, default=Path("docs"), help="folder of the figures")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16, help="queries per step")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument(
        "--budgets",
        nargs="+",
        choices=BUDGETS,
        default=BUDGETS,
        help="what all strategies are given as much of",
    )
    options = parser.parse_args()
    costs = {setup: measured(options.output / "cost", setup) for setup in SETUPS}
    for setup, rows in costs.items():
        print("\n".join(cost_table(setup, rows)), end="\n\n")
    runs = {}
    for budget in options.budgets:
        steps: dict[str, int] = {name: options.steps for name in STRATEGIES}
        if budget == "time":
            steps = equal_time_steps(costs["demo"], options.steps)
        runs[f"same {budget}"] = found = trained_all(options, steps)
        title = f"demo, {TEST_VIDEOS:,} test videos, same {budget}"
        print("\n".join(accuracy_table(title, found)), end="\n\n")
    plot_accuracy(costs["demo"], runs, options.figures / "tuning_accuracy.png")
    plot_speed(costs, options.figures / "tuning_speed.png")


def measured(folder: Path, setup: str) -> dict[str, Result]:
    """Costs of every strategy on one backbone."""

    def cost(name: str) -> Result:
        return finished(
            folder / f"{setup}-{name}.json", "benchmarks.studies.tuning.cost", setup, name
        )

    answering = cost(QUERIES)
    return {name: {**cost(name), **answering[name]} for name in STRATEGIES}


def trained_all(options: argparse.Namespace, steps: dict[str, int]) -> dict[str, list[Result]]:
    """The runs of every strategy, one per seed."""
    return {
        name: [trained(options, name, count, seed) for seed in range(options.seeds)]
        for name, count in steps.items()
    }


def trained(options: argparse.Namespace, name: str, steps: int, seed: int) -> Result:
    """One training run."""
    numbers = {"steps": steps, "batch": options.batch, "seed": seed, "videos": TEST_VIDEOS}
    file = f"{name}-{steps}x{options.batch}-seed{seed}-{TEST_VIDEOS}.json"
    arguments = [part for key, value in numbers.items() for part in (f"--{key}", str(value))]
    return finished(
        options.output / "demo" / file, "benchmarks.studies.tuning.accuracy", name, *arguments
    )


def finished(file: Path, module: str, *arguments: str) -> Result:
    """The result that `python -m module` writes into `file`; an existing file is read."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", module, *arguments, "--output", str(file)]
        subprocess.run(command, check=True)
    return json.loads(file.read_text())


def equal_time_steps(costs: dict[str, Result], steps: int) -> dict[str, int]:
    """Steps that take every strategy as long as `steps` take the reference."""
    ratios = {name: costs[REFERENCE]["step"] / cost["step"] for name, cost in costs.items()}
    return {
        name: steps if abs(ratio - 1) < SAME_TIME else max(round(ratio * steps), 1)
        for name, ratio in ratios.items()
    }


def cost_table(setup: str, rows: dict[str, Result]) -> Iterable[str]:
    """Costs of every strategy on one backbone."""
    sizes = SETUPS[setup]
    title = f"{sizes.title}, {sizes.clips} clips, batch {sizes.batch}"
    heads = ("trainable", "step, CPU s", "against side-tuning", "peak MiB", "query, ms", "head, ms")
    yield f"| {title} | {' | '.join(heads)} |"
    yield "|---" * (len(heads) + 1) + "|"
    for name, row in rows.items():
        cells = (
            f"{row['trainable']:,}",
            f"{row['step']:.3g}",
            f"{row['step'] / rows[REFERENCE]['step']:.2f}",
            f"{row['peak'] / 2**20:,.0f}",
            f"{1e3 * row['query']:,.0f}",
            f"{1e3 * row['head']:.1f}",
        )
        yield f"| {STRATEGIES[name].title} | {' | '.join(cells)} |"


def accuracy_table(title: str, runs: dict[str, list[Result]]) -> Iterable[str]:
    """Mean and spread of the figures over seeds."""
    yield f"| {title} | {' | '.join(FIGURES)} | steps | training, CPU s |"
    yield "|---" * (len(FIGURES) + 3) + "|"
    for name, found in runs.items():
        cells = [cell([run["brief"][key] for run in found]) for key in FIGURES.values()]
        seconds = statistics.mean(run["seconds"] for run in found)
        cells += [str(found[0]["steps"]), f"{seconds:.0f}"]
        yield f"| {STRATEGIES[name].title} | {' | '.join(cells)} |"


if __name__ == "__main__":
    run(main)
