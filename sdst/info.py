"""Show versions, devices, native code, and the implementation that serves each op here."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import sdst
from sdst.config import load_config
from sdst.config.files import packaged_configs
from sdst.errors import InputError, run
from sdst.terminal.options import OneLineParser

# What decides, besides sdst itself, what runs here.
PACKAGES: tuple[str, ...] = ("torch", "triton", "flash-attn", "xformers", "open_clip_torch", "av")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m sdst.info --help`."""
    options = make_parser().parse_args(arguments)
    tables = installation() if options.config is None else parameters(options.config)
    if options.json:
        print(json.dumps(tables, indent=2))
        return
    for title, rows in tables.items():
        show(title, rows)


def make_parser() -> argparse.ArgumentParser:
    """Options of the command."""
    parser = OneLineParser("python -m sdst.info", __doc__)
    parser.add_argument(
        "--config",
        help="show the parameters of this config's model instead: a file, or one of "
        + ", ".join(packaged_configs()),
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


Tables = dict[str, dict[str, str]] | dict[str, dict[str, int]]


def installation() -> Tables:
    """Versions, devices, native code, and a table for every op."""
    from sdst.kernels import ImplementationError
    from sdst.kernels.installation import devices, native_code, op_choices

    try:
        choices = op_choices()
    except ImplementationError as error:
        raise InputError(f"SDST_IMPLEMENTATION: {error}") from error
    return {
        "versions": {"sdst": sdst.__version__, "python": platform.python_version(), **packages()},
        "devices": devices(),
        "native code": native_code(),
        **choices,
    }


def packages() -> dict[str, str]:
    """The installed version of each of `PACKAGES`."""
    found = dict.fromkeys(PACKAGES, "not installed")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def show(title: str, rows: Mapping[str, str | int]) -> None:
    """Print a titled, aligned table."""
    width = max(18, *(len(name) for name in rows))
    print(title)
    for name, value in rows.items():
        print(f"  {name:{width}}  " + (f"{value:>12,}" if isinstance(value, int) else value))


def parameters(name: str) -> Tables:
    """Trainable parameters of a config's model, by part."""
    config = load_config(name).model
    if problems := config.problems():
        raise InputError(f"config {name}: {'; '.join(problems)}; it depends on the features")
    from sdst.model import SDST, parameter_count

    counts = parameter_count(SDST(config))
    return {f"trainable parameters of {name}": {**counts, "total": sum(counts.values())}}


if __name__ == "__main__":
    run(main)
