"""Options of a command, refused in one line."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import NoReturn

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
