"""`python -m benchmarks.studies.ablation`: what each part of the side-tuner buys on the demo.

Every variant is trained with the same data, budget and seeds; the table holds mean and spread on
`--videos` test videos.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.studies.runs import TEST_VIDEOS, head, row, trained_on_demo
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
    parser.add_argument("--videos", type=int, default=TEST_VIDEOS, help="that runs are judged by")
    options = parser.parse_args()
    title = f"demo, {options.epochs} epochs, {options.videos} test videos"
    print(head(title, "training s"))
    for index, (name, changes) in enumerate(VARIANTS.items()):
        runs = []
        for seed in range(options.seeds):
            budget = ["--train.epochs", str(options.epochs), "--train.seed", str(seed)]
            folder = options.output / f"{index}-seed{seed}"
            runs.append(trained_on_demo(folder, [*changes, *budget], options.videos))
        print(row(name, runs), flush=True)


if __name__ == "__main__":
    run(main)
