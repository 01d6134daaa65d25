"""Training runs that benchmarks compare, each made once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from sdst.checkpoint import RunFolder
from sdst.config import load_config
from sdst.errors import InputError
from sdst.model import SDST
from sdst.train import train

FIGURES = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "MR mAP": "MR-full-mAP",
    "HD mAP": "HL-min-VeryGood-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}


def trained(output: Path, recipe: str, options: Sequence[str], model: type[SDST] = SDST) -> dict:
    """The metrics of a run in `output`; one that is there already is read and not repeated.

    Args:
        recipe: a config, by name or file.
        options: what is other than in the recipe, as `--section.key value`.
        model: what is trained.

    Raises:
        InputError: the run that is there had other settings, or was interrupted.
    """
    config, file = load_config(recipe, options), output / "metrics.json"
    if file.is_file():
        RunFolder(output).check_config(config)
        metrics = json.loads(file.read_text())
    else:
        metrics = train(config, output, model_class=model)
    if metrics["interrupted"]:
        raise InputError(f"{output}: was interrupted; remove it to train it again")
    return metrics


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {spread:.1f}"


def row(name: str, runs: Sequence[dict], epochs: int = 1) -> str:
    """A line of a table in Markdown: the figures of some seeds, and seconds an epoch (or a run)."""
    figures = [[run["report"]["brief"][key] for run in runs] for key in FIGURES.values()]
    seconds = [run["seconds"]["training"] / epochs for run in runs]
    return f"| {name} | {' | '.join(map(cell, [*figures, seconds]))} |"


def head(title: str, seconds: str) -> str:
    """The first two lines of such a table."""
    return f"| {title} | {' | '.join(FIGURES)} | {seconds} |\n" + "|---" * (len(FIGURES) + 2) + "|"
