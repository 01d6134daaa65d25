"""`sdst VERB ...`, also as `python -m sdst VERB ...`: every command under one name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from sdst import __version__
from sdst.errors import InputError, run

VERBS = {
    "train": "train a side-tuner on any config, evaluate it, and keep a checkpoint",
    "ground": "find the moments of a video that sentences describe",
    "serve": "a page and a REST interface to ask a library of videos",
    "export": "write a model as a program for PyTorch or ONNX, which runs without sdst",
    "evaluate": "score predictions with the official metrics, or write a submission",
    "import": "make a dataset of your own videos from a CSV, ELAN, subtitles, ...",
    "extract": "encode videos and sentences with a frozen backbone",
    "index": "index videos, so that a search looks into a few of them",
    "convert": "pack published features into a store, copy or verify a store",
    "inspect": "show a dataset: counts, lengths, repairs and missing files",
    "cache": "show the cache of encoded videos and sentences, and clear it",
    "info": "show versions, devices, native code, and what serves each op",
}


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Run the verb that comes first with the options behind it; list the verbs without one.

    Raises:
        InputError: there is no such verb.
    """
    verb, *options = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help"):
        print(usage())
        return 0
    if verb == "--version":
        print(f"sdst {__version__}")
        return 0
    if verb not in VERBS:
        [closest] = get_close_matches(verb, VERBS, n=1, cutoff=0.5) or [None]
        advice = f"; did you mean {closest}?" if closest else ""
        raise InputError(f"no verb {verb!r}, expected one of {', '.join(VERBS)}{advice}")
    return import_module(f"sdst.{verb}").main(options)


def usage() -> str:
    """How the command is called, and a line for each verb."""
    lines = [f"  {verb:10}{purpose}" for verb, purpose in VERBS.items()]
    return "\n".join(["usage: sdst VERB [options]; sdst VERB --help shows them", "", *lines])


def command() -> None:
    """The `sdst` script; leaves the process."""
    run(main)


if __name__ == "__main__":
    command()
