"""Score predictions with the field's official metrics.

python -m sdst.evaluate --predictions P.jsonl --annotations A.jsonl [--clip-length S] [--json OUT]
python -m sdst.evaluate --checkpoint DIR [--split val|test] [--json OUT]
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sdst.data.annotations import read_annotations
from sdst.data.jsonl import replace_text
from sdst.errors import InputError, run
from sdst.evaluation import evaluate, format_report, read_predictions

DEFAULT_CLIP_LENGTH = 2.0  # seconds, QVHighlights
DEFAULT_SPLIT = "val"


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate as the command line says; print the table and, with --json, write the report."""
    options = _parse(arguments)
    if options.checkpoint is not None:
        name, report = _evaluate_checkpoint(options)
    else:
        name, report = _evaluate_files(options)
    print(format_report({name: report}))
    if options.json is not None:
        replace_text(options.json, json.dumps(report, indent=4) + "\n")


def _evaluate_files(options: Namespace) -> tuple[str, dict]:
    predictions = read_predictions(options.predictions)
    annotations = read_annotations(options.annotations)
    clip_length = options.clip_length or DEFAULT_CLIP_LENGTH
    report = evaluate(predictions, annotations, clip_length, source=str(options.predictions))
    return options.predictions.stem, report


def _evaluate_checkpoint(options: Namespace) -> tuple[str, dict]:
    from sdst.predict import predict_split  # brings the model and the backbone along

    split = options.split or DEFAULT_SPLIT
    predictions, annotations, clip_length = predict_split(options.checkpoint, split)
    report = evaluate(predictions, annotations, clip_length, source=str(options.checkpoint))
    return split, report


class _OneLineParser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see python -m sdst.evaluate --help")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = _OneLineParser(
        prog="python -m sdst.evaluate",
        description=__doc__,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--predictions", type=Path, help="submission to score, JSON lines")
    parser.add_argument("--annotations", type=Path, help="its ground truth, JSON lines")
    parser.add_argument(
        "--clip-length",
        type=float,
        help=f"seconds per saliency score of --predictions (default {DEFAULT_CLIP_LENGTH:g})",
    )
    parser.add_argument("--checkpoint", type=Path, help="output folder of a training run")
    parser.add_argument(
        "--split",
        choices=("val", "test"),
        help=f"what the checkpoint is evaluated on (default {DEFAULT_SPLIT})",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the whole report here")
    options = parser.parse_args(arguments)
    _check_mode(options)
    return options


def _check_mode(options: Namespace) -> None:
    """Exactly one of the two modes, with that mode's flags only."""
    files = (options.predictions, options.annotations)
    if (options.checkpoint is None) == (files == (None, None)):
        raise InputError("give either --checkpoint, or --predictions with --annotations")
    if options.checkpoint is None and None in files:
        absent = "--annotations" if options.annotations is None else "--predictions"
        raise InputError(f"{absent} is missing; --predictions and --annotations go together")
    if options.checkpoint is None and options.split is not None:
        raise InputError("--split goes with --checkpoint; here --annotations decides the queries")
    if options.checkpoint is not None and options.clip_length is not None:
        raise InputError("--clip-length goes with --predictions; a checkpoint knows its own")
    if options.clip_length is not None and not options.clip_length > 0:
        raise InputError(f"--clip-length is {options.clip_length:g}, expected seconds above 0")


if __name__ == "__main__":
    run(main)
