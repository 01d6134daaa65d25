"""Options of a command, refused in one line; those that every command has."""

from __future__ import annotations

import logging
from argparse import SUPPRESS, Action, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from typing import Any, NoReturn

from sdst.errors import InputError


class OneLineParser(ArgumentParser):
    """A parser whose errors are `InputError`, without the usage.

    Args:
        prog: as the user calls it.
        description: shown as it is written.
    """

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(
            prog=prog, description=description, formatter_class=RawDescriptionHelpFormatter
        )

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def add_verbosity(parser: ArgumentParser) -> None:
    """Give a command `--quiet` and `--verbose`, which take effect when they are parsed."""
    add = parser.add_mutually_exclusive_group().add_argument
    quiet, verbose = "results, warnings and errors only", "steps with their times, and tracebacks"
    add("-q", "--quiet", action=_SetLevel, level=logging.WARNING, help=quiet)
    add("-v", "--verbose", action=_SetLevel, level=logging.DEBUG, help=verbose)


class _SetLevel(Action):
    """Sets the level that `sdst.terminal.verbosity` reads."""

    def __init__(self, option_strings: Sequence[str], dest: str, level: int, help: str) -> None:
        super().__init__(option_strings, SUPPRESS, nargs=0, default=SUPPRESS, help=help)
        self._level = level

    def __call__(self, *_: Any) -> None:
        logging.getLogger("sdst").setLevel(self._level)
