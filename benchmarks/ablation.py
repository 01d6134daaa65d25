"""`python -m benchmarks.ablation`: what each part of the side-tuner buys on the demo.

Every variant is trained with the same data, budget and seeds; the table holds mean and spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

VARIANTS = {
    "the demo's default: RDSA, context sparse, schedule 4 2 1 1": [],
    "deformable cross-attention instead of RDSA": ["--model.attention", "deformable"],
    "standard cross-attention instead of RDSA": ["--model.attention", "cross"],
    "context none": ["--model.context", "none"],
    "schedule 1 1 1 1": ["--model.schedule", "[1,1,1,1]"],
}
FIGURES = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "MR mAP": "MR-full-mAP",
    "HD mAP": "HL-min-VeryGood-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}


def train(output: Path, options: list[str]) -> dict:
    """One run in a process of its own; done already, it is read and not repeated."""
    if not (output / "metrics.json").is_file():
        command = [sys.executable, "-m", "sdst.train", "--output", str(output), *options]
        subprocess.run(command, check=True)
    return json.loads((output / "metrics.json").read_text())


def cell(values: list[float]) -> str:
    """Mean and standard deviation over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def main() -> None:
    """Train all variants with all seeds and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(f"| demo, test split, {options.epochs} epochs | {' | '.join(FIGURES)} | training s |")
    print("|---" * (len(FIGURES) + 2) + "|")
    for index, (name, changes) in enumerate(VARIANTS.items()):
        runs = []
        for seed in range(options.seeds):
            budget = ["--train.epochs", str(options.epochs), "--train.seed", str(seed)]
            runs.append(train(options.output / f"{index}-seed{seed}", [*changes, *budget]))
        cells = [cell([run["report"]["brief"][key] for run in runs]) for key in FIGURES.values()]
        seconds = cell([run["seconds"]["training"] for run in runs])
        print(f"| {name} | {' | '.join(cells)} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()
