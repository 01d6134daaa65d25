"""`python -m benchmarks.studies.precision`: the accuracy of bf16 matrix multiplies on the demo.

The demo's recipe is trained in fp32 and in bf16, and each run answers in both; the table holds mean
and spread over seeds on `--videos` test videos. The gain is measured by
`benchmarks/bench_end_to_end.py`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.studies.runs import TEST_VIDEOS, evaluated_on_demo, head, row, trained
from sdst.config import PRECISIONS
from sdst.errors import run
from sdst.grounding.decode import check_precision

TRAINED = ("fp32", "bf16")  # train.precision


def main() -> None:
    """Train in both with all seeds, answer in both and print the table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.precision", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=Path("runs/precision"))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--videos", type=int, default=TEST_VIDEOS, help="test videos of every run")
    options = parser.parse_args()
    check_precision("bf16", torch.device("cpu"))
    print(head(f"trained in, answers in; demo, {options.videos} test videos", "training s"))
    for precision in TRAINED:
        folders = [options.output / f"{precision}-seed{seed}" for seed in range(options.seeds)]
        runs = [
            trained(folder, "demo", ["--train.seed", str(seed), "--train.precision", precision])
            for seed, folder in enumerate(folders)
        ]
        for answers in PRECISIONS:
            reports = [evaluated_on_demo(x, options.videos, precision=answers) for x in folders]
            both = zip(runs, reports, strict=True)
            cells = row(f"{precision}, {answers}", [{**x, "report": y} for x, y in both])
            print(cells, flush=True)


if __name__ == "__main__":
    run(main)
