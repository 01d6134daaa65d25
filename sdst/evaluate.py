"""Score predictions with the field's official metrics.

python -m sdst.evaluate --dataset NAME --predictions P.jsonl --annotations A.jsonl [--json OUT]
python -m sdst.evaluate --checkpoint DIR [--split val|test] [--json OUT] [--data.root DIR ...]

A checkpoint finds its data where the training did; `--data.key` and `--predict.key` of sdst.train
override that.
With --submit DIR nothing is scored: the files of the dataset's evaluation server are written
(QVHighlights, Ego4D-NLQ), of both splits of a checkpoint, or of --predictions as --split.
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sdst.config import DataConfig
from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError, run
from sdst.evaluation import format_report, read_predictions
from sdst.evaluation.presence import presence_figures
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.submission import SERVERS, check_server, write_submission
from sdst.files.publish import replace_text
from sdst.terminal.options import OneLineParser, add_verbosity
from sdst.terminal.suggest import did_you_mean

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
    others: list[dict]  # predictions for sentences of other videos


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
    report |= presence_figures(answers.predictions, answers.others)
    if options.json is not None:
        replace_text(options.json, json.dumps(report, indent=4) + "\n")
    title = data.titled(protocol.title, len(truth))
    print(format_report({name: report}, title, protocol.headline))


def submit(options: Namespace, overrides: Sequence[str] = ()) -> None:
    """Write and name the submission files."""
    protocol = _data(options, overrides).protocol
    check_server(protocol)
    for answers in _answers(options, overrides):
        split, predictions, annotations, clip_length, source, _ = answers
        assert clip_length is not None  # no server scores the datasets without
        path, *more = write_submission(
            options.submit, split, predictions, annotations, clip_length, source, protocol=protocol
        )
        print(f"{path}: {len(answers.predictions):,} queries", *more, sep="\n")
    print(SERVERS[protocol])


def _data(options: Namespace, overrides: Sequence[str] = ()) -> DataConfig:
    """The data that the checkpoint was trained on, under the protocol asked for or its own."""
    data = DataConfig(protocol=DEFAULT_PROTOCOL)
    if options.checkpoint is not None:
        from sdst.pretrained.folder import load_checkpoint

        data = load_checkpoint(options.checkpoint, overrides)[0].config.data
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
            others=[],
        )
        return
    from sdst.grounding.predict import predict_split  # brings the model and the backbone along

    if options.split is None and options.submit is not None:
        splits = ("val", "test")
    else:
        splits = (options.split or DEFAULT_SPLIT,)
    for split in splits:
        precision = options.precision or "fp32"
        scored = options.submit is None
        found = predict_split(options.checkpoint, split, precision, overrides, others=scored)
        yield Answers(
            split,
            found.records,
            found.annotations,
            found.clip_length,
            str(options.checkpoint),
            found.others,
        )


def make_parser() -> ArgumentParser:
    """Options of the command; with --checkpoint, `OVERRIDABLE` sections of its config, too."""
    parser = OneLineParser("python -m sdst.evaluate", __doc__)
    evaluated = parser.add_mutually_exclusive_group()
    evaluated.add_argument(
        "--checkpoint", metavar="MODEL", help="a training run's folder, or as for sdst.ground"
    )
    evaluated.add_argument("--predictions", type=Path, help="a submission, JSON lines")
    parser.add_argument(
        "--dataset",
        choices=PROTOCOLS,
        help="sets the clip length and the figures (default: as the checkpoint was trained, "
        f"{DEFAULT_PROTOCOL} for --predictions)",
    )
    parser.add_argument(
        "--split",
        choices=("val", "test"),
        help=f"what the checkpoint is evaluated on, or --submit writes (default {DEFAULT_SPLIT})",
    )
    result = parser.add_mutually_exclusive_group()
    result.add_argument("--json", type=Path, metavar="OUT", help="write the whole report here")
    result.add_argument(
        "--submit", type=Path, metavar="DIR", help="write submission files here instead of scoring"
    )
    of_checkpoint = parser.add_argument_group("with --checkpoint")
    of_checkpoint.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        help="of its matrix multiplies (default fp32); auto is bf16 where that is native",
    )
    of_predictions = parser.add_argument_group("with --predictions")
    of_predictions.add_argument("--annotations", type=Path, help="the ground truth, JSON lines")
    of_predictions.add_argument(
        "--clip-length",
        type=seconds,
        metavar="SECONDS",
        help="per saliency score, instead of the dataset's",
    )
    add_verbosity(parser)
    return parser


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text}, expected seconds above 0")
    return value


# Options that go with one way of evaluating alone, and why not with the other.
_GOES_WITH = (
    ("annotations", "predictions", "a checkpoint knows its dataset"),
    ("clip_length", "predictions", "a checkpoint knows its own"),
    ("precision", "checkpoint", "--predictions are answers already"),
)


def _parse(arguments: Sequence[str] | None) -> tuple[Namespace, list[str]]:
    """The options, and overrides of the checkpoint's config."""
    parser = make_parser()
    options, overrides = parser.parse_known_args(arguments)
    known = tuple(f"--{section}." for section in OVERRIDABLE)
    if unknown := [x for x in overrides if x.startswith("--") and not x.startswith(known)]:
        name = unknown[0].partition("=")[0]
        raise InputError(
            f"{name}: neither an option of sdst.evaluate nor one of {', '.join(known)}..., "
            "which may differ from the training; see python -m sdst.evaluate --help"
            + did_you_mean(name, parser._option_string_actions)
        )
    if options.checkpoint is None and options.predictions is None:
        parser.error("give either --checkpoint DIR or --predictions FILE")
    if options.checkpoint is None and overrides:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    _check_options(options)
    return options, overrides


def _check_options(options: Namespace) -> None:
    """Refuse what does not go together, as far as argparse does not."""
    for option, other, reason in _GOES_WITH:
        if getattr(options, option) is not None and getattr(options, other) is None:
            raise InputError(f"--{option.replace('_', '-')} goes with --{other}; {reason}")
    if options.predictions is not None and options.annotations is None:
        raise InputError("--annotations is missing; --predictions are scored against them")
    if options.predictions is not None and options.split is not None and options.submit is None:
        raise InputError("--split goes with --checkpoint; here --annotations decides the queries")
    by_domain = options.dataset is not None and PROTOCOLS[options.dataset].by_domain is not None
    if by_domain and (options.clip_length or options.submit):
        raise InputError(
            f"--dataset {options.dataset} goes without --clip-length and --submit; its file says "
            "what the clips are"
        )


if __name__ == "__main__":
    run(main)
