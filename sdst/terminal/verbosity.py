"""How much a command says while it works: `--quiet`, `--verbose`, and the logger behind both.

The library logs to `sdst` and its parts, and shows bars where it is asked to. `talk` makes a
command print that log; in a program that uses the library, `logging` decides as for any other.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdst.terminal.output import printable_lines

if TYPE_CHECKING:
    from tqdm import tqdm

_logger = logging.getLogger("sdst")


def is_quiet() -> bool:
    """Whether notes and bars are hidden."""
    return _logger.level >= logging.WARNING


def is_verbose() -> bool:
    """Whether whoever reads this looks for a fault."""
    return logging.NOTSET < _logger.level <= logging.DEBUG


def progress_bar(*arguments: Any, disable: bool = False, **options: Any) -> tqdm:
    """A bar of tqdm, which `--quiet` hides."""
    from tqdm import tqdm  # here and below, as no refused option should wait for it

    return tqdm(*arguments, disable=disable or is_quiet(), **options)


@contextmanager
def talk() -> Iterator[None]:
    """Print the log of `sdst` to stderr in this block.

    Notes are for who waits at a terminal; a pipe or file gets warnings alone, unless `--verbose`.
    """
    handler, before = _AboveBars(), (_logger.level, _logger.propagate)
    _logger.addHandler(handler)
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    try:
        yield
    finally:
        _logger.removeHandler(handler)
        level, _logger.propagate = before
        _logger.setLevel(level)  # which also drops what loggers below remember of it


class _AboveBars(logging.Handler):
    """Prints without tearing a progress bar."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        if record.levelno < logging.WARNING and not (sys.stderr.isatty() or is_verbose()):
            return
        line = record.getMessage()
        if is_verbose():
            line = f"[{time.monotonic() - self._began:7.2f} s] {record.name}: {line}"
        tqdm.write(printable_lines(line), file=sys.stderr)
