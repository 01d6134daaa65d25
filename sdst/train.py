"""Train a side-tuner on any config, evaluate it, and keep a checkpoint."""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from sdst.config import Config, annotated, load_with_origins
from sdst.config.files import config_path, packaged_configs
from sdst.config.key_help import HelpAll, common_keys
from sdst.errors import naming, run
from sdst.evaluation.report import labelled
from sdst.terminal.options import OneLineParser, add_verbosity

# What needs NumPy or PyTorch is imported where a run begins: options are checked without it.
if TYPE_CHECKING:
    from sdst.model import SDST
    from sdst.training.run_folder import RunFolder
    from sdst.training.trainer import Trainer

logger = logging.getLogger("sdst.train")  # also where it is run as `python -m`

# What a run leaves for who started it, as far as it has some.
PRODUCTS = ("model/", "metrics.json", "predictions.jsonl", "curves.png", "reliability.png")


def train(
    config: Config, output: Path, resume: bool = False, model_class: type[SDST] | None = None
) -> dict:
    """Train, evaluate the best model on `test` (or `val`), and leave everything in `output`.

    Args:
        output: the run's folder; an earlier run found there is kept under another name.
        resume: continue the run in `output` after its last complete epoch.
        model_class: what is built of `config.model`, a variant to be compared with; None: `SDST`.

    Returns:
        What `metrics.json` holds: `split`, the number of its `queries`, the tuner's report, the
        zero-shot baseline's (None where the features know none), the run's numbers, and its
        `provenance`.
    """
    from sdst.model import SDST
    from sdst.training.run_folder import RunFolder

    with closing(RunFolder(output)) as folder, naming(output):
        return _train(config, folder, resume, model_class or SDST)


def _train(config: Config, folder: RunFolder, resume: bool, model_class: type[SDST]) -> dict:
    from sdst.model import parameter_count
    from sdst.sources.dataset import open_data
    from sdst.sources.joined import with_others
    from sdst.training.checks import check_run
    from sdst.training.distributed import main_process_first
    from sdst.training.provenance import provenance, published
    from sdst.training.step import autocast_dtype
    from sdst.training.tracking import start_tensorboard, start_tracker
    from sdst.training.trainer import Trainer, make_accelerator

    began = time.monotonic()
    logger.debug("opening the data")
    autocast_dtype(config.train.precision)  # refused before any data is made
    accelerator = make_accelerator(config, folder.path)
    with main_process_first(accelerator):
        if accelerator.is_main_process:
            folder.resume(config) if resume else folder.check_free()
        data = with_others(open_data(config, for_training=True))
        config = data.config
        check_run(config, data, accelerator, model_class)
    data_ready = time.monotonic()
    trainer = Trainer(config, data, folder, accelerator, model_class)
    origin = provenance(data)
    start_tracker(accelerator, config.train.tracker, folder.path.name, origin)
    with main_process_first(accelerator):  # last, so that a refused run changes nothing here
        if accelerator.is_main_process:
            if not resume:
                folder.begin(config)
            folder.settle(config, data.meta)
    start_tensorboard(accelerator)
    if resume:
        trainer.resume()
    else:
        trainer.begin()
    trainer.say(
        f"{sum(parameter_count(trainer.bare_model).values()):,} trainable parameters; "
        f"{len(trainer.dataset):,} training queries, {trainer.total_steps:,} steps of "
        f"{min(config.train.batch_size, len(trainer.dataset))}; output in {folder.path}"
    )
    trainer.fit()
    trained = time.monotonic()
    metrics = finish(trainer)
    accelerator.end_training()
    if not accelerator.is_main_process:
        return {}
    metrics["interrupted"] = trainer.interrupted
    metrics["provenance"] = origin
    metrics["seconds"] = {
        "data": round(data_ready - began, 1),
        "training": round(trained - data_ready, 1),
        "evaluation": round(time.monotonic() - trained, 1),
    }
    folder.write("metrics.json", json.dumps(metrics, indent=2) + "\n")
    folder.describe_model(results_of(config, metrics), published(origin))
    return metrics


def finish(trainer: Trainer) -> dict:
    """Calibrate and evaluate the best model; write predictions, curves and its reliability."""
    from sdst.evaluation import write_predictions
    from sdst.evaluation.presence import presence_figures
    from sdst.model import parameter_count
    from sdst.plots import plot_curves, plot_reliability
    from sdst.training.calibration import calibrate, reliabilities
    from sdst.training.snapping import decide_snap

    folder, data = trainer.folder, trainer.data
    split = data.final_split()
    dataset = data.dataset(split)
    trainer.accelerator.wait_for_everyone()
    trainer.bare_model.load_weights(folder.model / "model.safetensors")
    decide_snap(trainer)
    calibrate(trainer)
    records = trainer.predict(dataset)
    others = trainer.predict_others(dataset)
    also = evaluate_others(trainer)
    if not trainer.accelerator.is_main_process:
        return {}
    write_predictions(folder.path / "predictions.jsonl", records)
    if history := folder.read_metrics():
        shown = [{**r, "val": labelled(r["val"], trainer.protocol.headline)} for r in history]
        plot_curves(shown, folder.path / "curves.png")
    reliable = reliabilities(records, others, dataset.annotations)
    if reliable:
        plot_reliability(reliable, folder.path / "reliability.png")
    figures = presence_figures(records, others)
    return {
        "split": split,
        "queries": len(dataset),
        "report": trainer.report(records, dataset.annotations) | figures,
        "reliability": reliable,
        "zero_shot": trainer.zero_shot_report(dataset),
        **({"also": also} if also else {}),
        "best_epoch": trainer.progress.best_epoch,
        "epochs": trainer.progress.epoch,
        "parameters": parameter_count(trainer.bare_model),
    }


def evaluate_others(trainer: Trainer) -> dict[str, dict]:
    """Reports for `metrics.json` of each dataset under `data.also`; empty on helper processes."""
    from sdst.evaluation.protocols import PROTOCOLS

    others = trainer.data.others
    splits = {name: data.final_split() for name, data in others.items()}
    found = {}
    for name, report in trainer.reports_of_others(splits).items():
        data, queries = others[name].config.data, len(others[name].splits[splits[name]])
        found[name] = {
            "title": data.titled(PROTOCOLS[data.protocol].title, queries),
            "protocol": data.protocol,
            "split": splits[name],
            "queries": queries,
            "report": report,
        }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.train --help`."""
    parser = make_parser()
    options, overrides = parser.parse_known_args(arguments)
    config, origin = load_with_origins(options.config, overrides, parser._option_string_actions)
    if options.print_config:
        print(annotated(config, origin), end="")
        return 0
    output = options.output or Path("runs") / config_path(options.config).stem
    metrics = train(config, output, options.resume)
    if not metrics:
        return 0
    show_metrics(config, metrics)
    show_others(metrics)
    warn_of_little_training(config, metrics)
    left = [name for name in PRODUCTS if (output / name).exists()]
    print(f"left in {output}: {', '.join(left)}")
    return 130 if metrics["interrupted"] else 0


def show_metrics(config: Config, metrics: dict) -> None:
    """Print the tuner's figures beside the baseline's, and how long the run took."""
    from sdst.evaluation import format_report
    from sdst.evaluation.protocols import PROTOCOLS

    reports = _reports(metrics)
    protocol = PROTOCOLS[config.data.protocol]
    title = config.data.titled(protocol.title, metrics["queries"])
    print(format_report(reports, title, protocol.headline))
    seconds = metrics["seconds"]
    print(
        f"{metrics['split']} split, weights of epoch {metrics['best_epoch']}; "
        + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    )


def show_others(metrics: dict) -> None:
    """Print the figures on the datasets under `data.also`, each under its own protocol."""
    from sdst.evaluation import format_report
    from sdst.evaluation.protocols import PROTOCOLS

    for found in metrics.get("also", {}).values():
        headline = PROTOCOLS[found["protocol"]].headline
        print(format_report({found["split"]: found["report"]}, found["title"], headline))


def warn_of_little_training(config: Config, metrics: dict) -> None:
    """Say so where the frozen backbone alone finds more than the model that was trained on it."""
    from sdst.evaluation.report import figures_of

    figure = config.train.select_by
    found = {name: figures_of(report).get(figure) for name, report in _reports(metrics).items()}
    trained, alone = found["SDST"], found.get("zero-shot")
    if trained is None or alone is None or alone <= trained:
        return
    logger.warning(
        "the frozen backbone alone finds more (%s %.1f zero-shot, %.1f trained): train for longer "
        "(--train.epochs) or on more queries; until then, sdst ground answers zero-shot with %s",
        *(figure, alone, trained, config.data.backbone),
    )


def results_of(config: Config, metrics: dict) -> dict:
    """The figures of a run's `metrics` for its model card: those that papers report."""
    from sdst.evaluation.protocols import PROTOCOLS
    from sdst.evaluation.report import figures_of, labelled

    protocol = PROTOCOLS[config.data.protocol]
    return {
        "title": config.data.titled(protocol.title, metrics["queries"]),
        "figures": {
            name: labelled(figures_of(report), protocol.headline)
            for name, report in _reports(metrics).items()
        },
        **{key: metrics[key] for key in ("split", "queries", "best_epoch", "epochs")},
        "parameters": sum(metrics["parameters"].values()),
        "interrupted": metrics["interrupted"],
    }


def _reports(metrics: dict) -> dict[str, dict]:
    reports = {"SDST": metrics["report"], "zero-shot": metrics["zero_shot"]}
    return {name: report for name, report in reports.items() if report}


def make_parser() -> argparse.ArgumentParser:
    """Options of the command; every field of the config is one more, as `--section.key`."""
    parser = OneLineParser("python -m sdst.train", __doc__)
    parser.usage = "python -m sdst.train [--config NAME] [--output DIR] [--section.key value ...]"
    parser.epilog = common_keys()
    parser.add_argument(
        "--config",
        default="demo",
        help=f"packaged config ({', '.join(packaged_configs())}) or YAML file; default: demo",
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the run; default: runs/<name of the config>"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --output after its last epoch"
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the merged config as YAML, with where each value comes from, and exit",
    )
    add_verbosity(parser)
    parser.add_argument("--help-all", action=HelpAll, help="show every configuration key and exit")
    return parser


if __name__ == "__main__":
    run(main)
