"""Queries as a user gives them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from sdst.errors import InputError
from sdst.files.text import read_lines


def read_queries(path: Path) -> list[str]:
    """The lines of a text file, or of the standard input for `-`, that are not blank.

    Raises:
        InputError: the file cannot be read as text in UTF-8, or has no such line.
    """
    if path == Path("-"):
        queries = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    else:
        queries = read_lines(path)
    if not queries:
        raise InputError(f"--queries {path}: holds no query; expected one a line")
    return queries


def as_queries(queries: str | Sequence[str]) -> list[str]:
    """The sentences asked; a string is one of them.

    Raises:
        InputError: there is none, or one says nothing.
    """
    queries = [queries] if isinstance(queries, str) else list(queries)
    if not queries:
        raise InputError("no query given; expected at least one sentence")
    for number, query in enumerate(queries, 1):
        if not query.strip():
            raise InputError(f"query {number} is empty; expected a sentence")
    return queries
