"""`python -m benchmarks.ablation`: what each part of the side-tuner buys on the demo.

Every variant is trained with the same data, budget and seeds; the table holds mean and spread.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.runs import head, row, trained
from sdst.errors import run

VARIANTS = {
    "the demo's default: RDSA, context sparse, schedule 4 2 1 1": [],
    "deformable cross-attention instead of RDSA": ["--model.attention", "deformable"],
    "standard cross-attention instead of RDSA": ["--model.attention", "cross"],
    "context none": ["--model.context", "none"],
    "schedule 1 1 1 1": ["--model.schedule", "[1,1,1,1]"],
}


def main() -> None:
    """Train all variants with all seeds and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(head(f"demo, test split, {options.epochs} epochs", "training s"))
    for index, (name, changes) in enumerate(VARIANTS.items()):
        runs = []
        for seed in range(options.seeds):
            budget = ["--train.epochs", str(options.epochs), "--train.seed", str(seed)]
            runs.append(
                trained(options.output / f"{index}-seed{seed}", "demo", [*changes, *budget])
            )
        print(row(name, runs), flush=True)


if __name__ == "__main__":
    run(main)
