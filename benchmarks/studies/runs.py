"""Training runs that benchmarks compare, each made once."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.torch import load_model

from sdst.config import load_config
from sdst.data.annotations import Annotation
from sdst.demo import DemoSize, prepare_demo
from sdst.errors import InputError
from sdst.evaluation import evaluate, read_predictions, write_predictions
from sdst.evaluation.protocols import PROTOCOLS, Protocol
from sdst.evaluation.report import figures_of, labelled
from sdst.files.cache_folder import cache_dir
from sdst.files.publish import replace_text
from sdst.grounding.predict import predict
from sdst.model import SDST
from sdst.sources.dataset import Data, dataset_root, open_data
from sdst.sources.splits import read_splits
from sdst.train import train
from sdst.training.run_folder import RunFolder

TEST_VIDEOS = 1000  # that a run on the demo is evaluated on
FIGURES = {
    "R1@0.5": "MR-full-R1@0.5",
    "R1@0.7": "MR-full-R1@0.7",
    "MR mAP": "MR-full-mAP",
    "HD mAP": "HL-min-VeryGood-mAP",
    "HIT@1": "HL-min-VeryGood-Hit1",
}


@dataclass(frozen=True)
class Run:
    """A finished run, evaluated.

    Attributes:
        title: what it was evaluated on.
        qids: the queries, in the order of `per_query`.
        figures: in percent, by label.
        per_query: [queries] the same figures of every query alone, by label.
        seconds: of its training.
    """

    title: str
    qids: tuple[int | str, ...]
    figures: dict[str, float]
    per_query: dict[str, np.ndarray]
    seconds: float


def trained(output: Path, recipe: str, options: Sequence[str], model: type[SDST] = SDST) -> dict:
    """The metrics of a run in `output`; a finished one is read and not repeated, others resume.

    Args:
        recipe: a config, by name or file.
        options: what is other than in the recipe, as `--section.key value`.
        model: what is trained.

    Raises:
        InputError: the existing run had other settings, or this one was interrupted.
    """
    config, file = load_config(recipe, options), output / "metrics.json"
    metrics = json.loads(file.read_text()) if file.is_file() else {"interrupted": True}
    if not metrics["interrupted"]:
        RunFolder(output).check_config(config)
        return metrics
    begun = RunFolder(output).last_state() is not None
    metrics = train(config, output, resume=begun, model_class=model)
    if metrics["interrupted"]:
        raise InputError(f"{output}: was interrupted; the same command resumes it")
    return metrics


def study_run(
    output: Path,
    recipe: str,
    options: Sequence[str],
    labels: Sequence[str],
    videos: int | None,
    several: bool = False,
) -> Run:
    """A run as `trained`, with the figures that `labels` name.

    Args:
        videos: test videos of the demo that it is evaluated on; None: the split that it was.
        several: evaluate the queries with several moments alone.

    Raises:
        InputError: as `trained`, or no query has several moments.
    """
    metrics = trained(output, recipe, options)
    config = load_config(output / "config.yaml")
    protocol = PROTOCOLS[config.data.protocol]
    if videos is None:
        split, report = metrics["split"], metrics["report"]
        records = read_predictions(output / "predictions.jsonl")
        truth = read_splits(config, dataset_root(config))[split]
        title = f"{len(records):,} queries of {split}"
    else:
        report = evaluated_on_demo(output, videos)
        records = read_predictions(output / f"predictions-{videos}.jsonl")
        truth = demo_of_tests(videos).splits["test"]
        title = f"{videos:,} test videos"
    if several:
        truth = [a for a in truth if len(a.windows or ()) > 1]
        chosen = {a.qid for a in truth}
        records = [record for record in records if record["qid"] in chosen]
        if not records:
            raise InputError(f"{output}: none of its {title} has several moments")
        report = protocol.score(records, truth, config.data.clip_length)
        title += f", the {len(records):,} queries with several moments"
    per_query = figures_per_query(records, truth, protocol, config.data.clip_length, labels)
    qids = tuple(record["qid"] for record in records)
    figures = labelled(figures_of(report), labels)
    return Run(title, qids, figures, per_query, metrics["seconds"]["training"])


def figures_per_query(
    records: Sequence[dict],
    truth: Sequence[Annotation],
    protocol: Protocol,
    clip_length: float,
    labels: Sequence[str],
) -> dict[str, np.ndarray]:
    """[queries] the figures of every predicted query alone, by label, as far as there are some.

    Their mean is the figure of all queries; of datasets with topics, which average over these, it
    is the mean over videos.
    """
    by_qid = {annotation.qid: annotation for annotation in truth}
    found = []
    for record in records:
        report = protocol.score([record], [by_qid[record["qid"]]], clip_length)
        found.append(labelled(figures_of(report), labels))
    return {label: np.array([figures[label] for figures in found]) for label in found[0]}


def trained_on_demo(
    output: Path, options: Sequence[str], videos: int, model: type[SDST] = SDST
) -> dict:
    """As `trained` by the demo's recipe, evaluated on `videos` test videos.

    The demo has 80 of them, 320 queries, on which two runs of one model may differ by five points.
    These are the same and more of their kind.
    """
    metrics = trained(output, "demo", options, model)
    return {**metrics, "report": evaluated_on_demo(output, videos, model)}


def evaluated_on_demo(
    output: Path, videos: int, model: type[SDST] = SDST, precision: str = "fp32"
) -> dict:
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
        write_predictions(file.with_name(file.name.replace("report", "predictions") + "l"), records)
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
