"""`python -m benchmarks.planted --annotations DIR`: side-tuners compared on QVHighlights' timing.

The recipe `qvhighlights_internvideo2` on features planted in its real annotations (see
`sdst.data.planted`): InternVideo2's shapes, no videos. They are packed first, 0.6 MB a query, so
that an epoch is the tuner's time alone. Every variant has the same data, budget and seeds. The
budget is a CPU's, with a model narrower than the recipe's and without dropout: the figures compare
the rows with each other, and with nothing else. DIR holds `highlight_{train,val}_release.jsonl`.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.runs import head, row, trained
from sdst.config import load_config
from sdst.convert import convert
from sdst.errors import run
from sdst.sources import packed_path

RECIPE = "qvhighlights_internvideo2"

VARIANTS = {
    "the paper's block: RDSA, context none, schedule 1 1 1 1 1": [],
    "deformable cross-attention instead of RDSA": ["--model.attention", "deformable"],
    "standard cross-attention instead of RDSA": ["--model.attention", "cross"],
    "context sparse": ["--model.context", "sparse"],
    "schedule 8 4 2 1 1": ["--model.schedule", "[8,4,2,1,1]"],
}


@dataclass(frozen=True)
class Budget:
    """What all variants share.

    Args:
        annotations: folder of `highlight_{train,val}_release.jsonl`.
        output: folder of data and runs, one for each budget.
        queries: the first of each split.
        noise: `planted.noise`.
    """

    annotations: Path
    output: Path
    queries: int = 800
    epochs: int = 5
    batch: int = 16
    width: int = 64
    noise: float = 0.5


def pack(budget: Budget) -> None:
    """Make the planted features of the budget's queries once."""
    root = budget.output / "data"
    root.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        shutil.copy(budget.annotations / f"highlight_{split}_release.jsonl", root)
    config = load_config(RECIPE, options_of(budget, seed=0))
    if not packed_path(config, root).exists():
        convert(config)


def options_of(budget: Budget, seed: int) -> list[str]:
    """What turns the recipe into the budget's, on planted features."""
    options = {
        "data.root": budget.output / "data",
        "data.planted": "true",
        "data.limit": budget.queries,
        "planted.noise": budget.noise,
        "model.width": budget.width,
        "model.projection_dropout": 0,  # as for the demo: too few epochs to overfit
        "model.dropout": 0,
        "model.drop_path": 0,
        "loss.saliency": 1,
        "train.epochs": budget.epochs,
        "train.batch_size": budget.batch,
        "train.lr": 2e-3,
        "train.warmup_steps": 30,
        "train.schedule": "cosine",
        "train.validate_every": budget.epochs,
        "train.seed": seed,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def main() -> None:
    """Train all variants with all seeds and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/planted"), help="a folder of its own per budget"
    )
    for name in ("queries", "epochs", "batch", "width", "noise"):
        default = getattr(Budget, name)
        parser.add_argument(f"--{name}", type=type(default), default=default)
    parser.add_argument("--seeds", type=int, default=3)
    options = vars(parser.parse_args())
    seeds = options.pop("seeds")
    budget = Budget(**options)
    pack(budget)
    title = f"planted val, {budget.queries} queries, {budget.epochs} epochs, {seeds} seeds"
    print(head(title, "s per epoch"))
    for index, (name, changes) in enumerate(VARIANTS.items()):
        runs = []
        for seed in range(seeds):
            options = [*options_of(budget, seed), *changes]
            runs.append(trained(budget.output / f"{index}-seed{seed}", RECIPE, options))
        print(row(name, runs, budget.epochs), flush=True)


if __name__ == "__main__":
    run(main)
