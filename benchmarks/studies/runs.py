"""Training runs that benchmarks compare, each made once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from safetensors.torch import load_model

from sdst.checkpoint import RunFolder
from sdst.config import cache_dir, load_config
from sdst.data.jsonl import replace_text
from sdst.demo import DemoSize, prepare_demo
from sdst.errors import InputError
from sdst.evaluation import evaluate
from sdst.evaluation.predict import predict
from sdst.model import SDST
from sdst.sources.dataset import Data, open_data
from sdst.train import train

TEST_VIDEOS = 1000  # that a run on the demo is judged by
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


def trained_on_demo(
    output: Path, options: Sequence[str], videos: int, model: type[SDST] = SDST
) -> dict:
    """As `trained` by the demo's recipe, judged by `videos` test videos.

    The demo has 80 of them, 320 queries, on which two runs of one model may differ by five points.
    These are the same and more of their kind.
    """
    metrics = trained(output, "demo", options, model)
    return {**metrics, "report": judged(output, videos, model)}


def judged(output: Path, videos: int, model: type[SDST] = SDST, precision: str = "fp32") -> dict:
    """The report of a run's best model on `videos` test videos of the demo, kept beside the run."""
    file = output / f"report-{videos}{'' if precision == 'fp32' else '-' + precision}.json"
    if not file.is_file():
        config = load_config(output / "config.yaml")
        tuner = model(config.model)
        load_model(tuner, output / "model" / "model.safetensors")
        dataset = demo_of_tests(videos).dataset("test")
        records = predict(
            tuner,
            dataset,
            config.train.batch_size,
            options=config.predict,
            precision=precision,
        )
        report = evaluate(records, dataset.annotations, config.data.clip_length)
        replace_text(file, json.dumps(report, indent=2) + "\n")
    return json.loads(file.read_text())


@cache
def demo_of_tests(videos: int) -> Data:
    """A demo with so many test videos, rendered and encoded on first use."""
    size = DemoSize(train=1, val=1, test=videos)
    root = cache_dir() / f"demo-{videos}"
    prepare_demo(root, size)
    options = ["--data.dataset", "custom", "--data.root", str(root)]
    return open_data(load_config("demo", options))


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
