"""Score predictions with the field's official metrics.

python -m sdst.evaluate --dataset NAME --predictions P.jsonl --annotations A.jsonl [--json OUT]
python -m sdst.evaluate --checkpoint DIR [--split val|test] [--json OUT] [--data.root DIR ...]

A checkpoint finds its data where the training did; `--data.key` and `--predict.key` of sdst.train
say otherwise.
With --submit DIR nothing is scored: the files of the dataset's evaluation server are written
(QVHighlights, Ego4D-NLQ), of both splits of a checkpoint, or of --predictions as --split.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, NoReturn

from sdst.config import DataConfig
from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError, run
from sdst.evaluation import format_report, read_predictions
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.submission import SERVERS, check_server, write_submission
from sdst.provenance import titled
from sdst.publish import replace_text

DEFAULT_SPLIT = "val"
DEFAULT_PROTOCOL = "custom"
OVERRIDABLE = ("data", "predict")  # sections of a checkpoint's config


class Answers(NamedTuple):
    """Predictions of a split and the queries that they answer."""

    split: str
    predictions: list[dict]
    annotations: list[Annotation]
    clip_length: float | None  # seconds; None where the annotations label clips
    source: str  # what to call the predictions in an error


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; print the table and, with --json, write the report."""
    options, overrides = _parse(arguments)
    if options.submit is not None:
        submit(options, overrides)
    else:
        score(options, overrides)


def score(options: Namespace, overrides: Sequence[str] = ()) -> None:
    """Print the figures of the predictions, the dataset's own first.

    Args:
        overrides: of the checkpoint's config.
    """
    (answers,) = _answers(options, overrides)
    data = _data(options, overrides)
    protocol = PROTOCOLS[data.protocol]
    name = answers.split if options.checkpoint else options.predictions.stem
    truth = answers.annotations
    report = protocol.score(answers.predictions, truth, answers.clip_length, answers.source)
    if options.json is not None:
        replace_text(options.json, json.dumps(report, indent=4) + "\n")
    title = titled(protocol.title, len(truth), data)
    print(format_report({name: report}, title, protocol.headline))


def submit(options: Namespace, overrides: Sequence[str] = ()) -> None:
    """Write and name the submission files."""
    protocol = _data(options, overrides).protocol
    check_server(protocol)
    for answers in _answers(options, overrides):
        path, *more = write_submission(options.submit, *answers, protocol=protocol)
        print(f"{path}: {len(answers.predictions):,} queries", *more, sep="\n")
    print(SERVERS[protocol])


def _data(options: Namespace, overrides: Sequence[str] = ()) -> DataConfig:
    """The data that the checkpoint was trained on, under the protocol asked for or its own."""
    data = DataConfig(protocol=DEFAULT_PROTOCOL)
    if options.checkpoint is not None:
        from sdst.checkpoint import load_checkpoint

        data = load_checkpoint(options.checkpoint, overrides)[0].data
    return replace(data, protocol=options.dataset or data.protocol)


def _answers(options: Namespace, overrides: Sequence[str]) -> Iterator[Answers]:
    """Those of a file; or those of a checkpoint, to --split or, to submit, both splits."""
    if options.checkpoint is None:
        yield Answers(
            options.split or DEFAULT_SPLIT,
            read_predictions(options.predictions),
            read_annotations(options.annotations),
            options.clip_length or PROTOCOLS[_data(options).protocol].clip_length,
            str(options.predictions),
        )
        return
    from sdst.evaluation.predict import predict_split  # brings the model and the backbone along

    if options.split is None and options.submit is not None:
        splits = ("val", "test")
    else:
        splits = (options.split or DEFAULT_SPLIT,)
    for split in splits:
        precision = options.precision or "fp32"
        answers = predict_split(options.checkpoint, split, precision, overrides)
        yield Answers(split, *answers, str(options.checkpoint))


class _OneLineParser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m sdst.evaluate --help")


def make_parser() -> ArgumentParser:
    """Options of the command; with --checkpoint, `OVERRIDABLE` sections of its config, too."""
    parser = _OneLineParser(
        prog="python -m sdst.evaluate",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--predictions", type=Path, help="submission to score, JSON lines")
    parser.add_argument("--annotations", type=Path, help="its ground truth, JSON lines")
    parser.add_argument(
        "--dataset",
        choices=PROTOCOLS,
        help="sets the clip length and the figures (default: as the checkpoint was trained, "
        f"{DEFAULT_PROTOCOL} for --predictions)",
    )
    parser.add_argument(
        "--clip-length",
        type=float,
        help="seconds per saliency score of --predictions, instead of the dataset's",
    )
    parser.add_argument("--checkpoint", type=Path, help="output folder of a training run")
    parser.add_argument(
        "--split",
        choices=("val", "test"),
        help=f"what the checkpoint is evaluated on, or --submit writes (default {DEFAULT_SPLIT})",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "bf16"),
        help="of a checkpoint's products (default fp32); bf16 where the processor has it",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the whole report here")
    parser.add_argument("--submit", type=Path, metavar="DIR", help="write submission files here")
    return parser


def _parse(arguments: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """The options, and overrides of the checkpoint's config."""
    options, overrides = make_parser().parse_known_args(arguments)
    known = tuple(f"--{section}." for section in OVERRIDABLE)
    if options.checkpoint is None and overrides:
        make_parser().error(f"unrecognized arguments: {' '.join(overrides)}")
    if unknown := [x for x in overrides if x.startswith("--") and not x.startswith(known)]:
        raise InputError(
            f"{unknown[0]}: neither an option of sdst.evaluate nor one of {', '.join(known)}..., "
            "which may differ from the training; see python -m sdst.evaluate --help"
        )
    _check_mode(options)
    return options, overrides


def _check_mode(options: Namespace) -> None:
    """Exactly one of the two modes, with that mode's flags only."""
    files = (options.predictions, options.annotations)
    if (options.checkpoint is None) == (files == (None, None)):
        raise InputError("give either --checkpoint, or --predictions with --annotations")
    if options.checkpoint is None and None in files:
        absent = "--annotations" if options.annotations is None else "--predictions"
        raise InputError(f"{absent} is missing; --predictions and --annotations go together")
    if options.submit is not None and options.json is not None:
        raise InputError("--json goes with a report; --submit writes predictions without scoring")
    if options.checkpoint is None and options.submit is None and options.split is not None:
        raise InputError("--split goes with --checkpoint; here --annotations decides the queries")
    if options.checkpoint is None and options.precision is not None:
        raise InputError("--precision goes with --checkpoint; --predictions are answers already")
    if options.checkpoint is not None and options.clip_length is not None:
        raise InputError("--clip-length goes with --predictions; a checkpoint knows its own")
    if options.clip_length is not None and not options.clip_length > 0:
        raise InputError(f"--clip-length is {options.clip_length:g}, expected seconds above 0")
    by_domain = options.dataset is not None and PROTOCOLS[options.dataset].by_domain is not None
    if by_domain and (options.clip_length or options.submit):
        raise InputError(
            f"--dataset {options.dataset} goes without --clip-length and --submit; its file says "
            "what the clips are"
        )


if __name__ == "__main__":
    run(main)
