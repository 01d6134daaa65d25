"""Export a trained model as a program that runs without this library, by PyTorch or ONNX.

python -m sdst.export --checkpoint MODEL --output moments.onnx
python -m sdst.export --checkpoint MODEL --output moments.pt2

The program takes features of videos and sentences, as the model's backbone gives them, and answers
with moments, saliency and presence; any number of sentences, clips and words. It is run before it
is written, and refused if it answers otherwise than the model. A JSON file beside it says what it
takes and gives. ONNX needs the extra `export`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdst.errors import InputError, run
from sdst.exporting.formats import FORMATS, check_format
from sdst.hub.models import DEMO_MODEL
from sdst.terminal.options import OneLineParser, add_verbosity

# What needs PyTorch is imported by `main`: options are checked without waiting for it.


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.export", __doc__)
    add = parser.add_argument
    add(
        "--checkpoint",
        default=DEMO_MODEL,
        metavar="MODEL",
        help="a training run's folder, its model/, ORG/REPO of a hub, or a packaged model "
        "(default: %(default)s)",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="the program, .pt2 or .onnx")
    add_verbosity(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m sdst.export --help`."""
    options = make_parser().parse_args(arguments)
    output, ending = options.output, options.output.suffix[1:]
    if ending not in FORMATS:
        raise InputError(f"--output {output}: expected a name that ends in .pt2 or .onnx")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: no such folder {output.parent}; create it first")
    for path in (output, output.with_suffix(".json")):
        if path.is_dir():
            raise InputError(f"--output {path}: is a folder; expected the name of a file")
    check_format(ending)
    from sdst.exporting.files import export_model

    difference = export_model(options.checkpoint, output, ending)
    print(
        f"{output}: answers as {options.checkpoint} does (to {difference:.0e}); "
        f"{output.with_suffix('.json').name} says what it takes and gives"
    )
    return 0


if __name__ == "__main__":
    run(main)
