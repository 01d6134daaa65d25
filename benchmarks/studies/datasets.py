"""`python -m benchmarks.studies.datasets DIR`: every dataset's recipe, two epochs, its own figures.

DIR has a folder of annotations for each dataset, as `data.root` takes it: qvhighlights, charades,
tacos, activitynet, nlq, tvsum, youtube; missing ones are left out. Features are planted
in the first `--queries` queries of every split, in the shapes of `<dataset>_clip_slowfast`. The
figures show that a recipe runs from the dataset's files to its protocol's headline, and nothing
else: two epochs of a narrow model on made-up features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

from sdst.config import load_config
from sdst.errors import run
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.report import figures_of, labelled
from sdst.train import main as train

DATASETS = ("qvhighlights", "charades", "tacos", "activitynet", "nlq", "tvsum", "youtube")
VAL_ALONE = {"activitynet": "activitynet_val_release.jsonl"}  # may be all that is there


def options_of(dataset: str, root: Path, queries: int, width: int) -> list[str]:
    """Overrides of a dataset's recipe."""
    options: dict[str, object] = {
        "data.root": root,
        "data.planted": "true",
        "data.limit": queries,
        "model.width": width,
        "train.epochs": 2,
        "train.batch_size": 16,
        "train.warmup_steps": 4,
        "train.lr": 2e-3,
        "train.validate_every": 2,
    }
    name = VAL_ALONE.get(dataset, "")
    if name and not (root / name.replace("val", "train")).exists():
        options["data.annotations"] = json.dumps({"train": name, "val": name})
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def rows(data: Path, output: Path, queries: int, width: int) -> Iterator[str]:
    """A row of the table for every dataset found."""
    for dataset in DATASETS:
        root = data / dataset
        if not root.is_dir():
            continue
        recipe, folder = f"{dataset}_clip_slowfast", output / dataset
        options = options_of(dataset, root, queries, width)
        began = time.monotonic()
        train(["--config", recipe, "--output", str(folder), *options])
        seconds = time.monotonic() - began
        metrics = json.loads((folder / "metrics.json").read_text())
        protocol = PROTOCOLS[load_config(recipe, options).data.protocol]
        found = labelled(figures_of(metrics["report"]), protocol.headline)
        figures = ", ".join(f"{label} {value:.1f}" for label, value in found.items())
        yield (
            f"| {protocol.title} | {metrics['split']}, {metrics['queries']} | {figures} | "
            f"{seconds:.0f} |"
        )


def main() -> None:
    """The command; prints the table as it grows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.datasets", description=__doc__
    )
    parser.add_argument("data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, default=Path("runs/datasets"))
    parser.add_argument("--queries", type=int, default=200, help="of a split (%(default)s)")
    parser.add_argument("--width", type=int, default=32, help="of the model (%(default)s)")
    options = parser.parse_args()
    print("| dataset | split, queries | headline | seconds |\n|---|---|---|---|")
    for row in rows(options.data, options.output, options.queries, options.width):
        print(row, flush=True)


if __name__ == "__main__":
    run(main)
