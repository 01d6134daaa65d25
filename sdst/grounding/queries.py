"""Queries as a user gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdst.errors import InputError
from sdst.text import read_lines


def read_queries(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        InputError: the file cannot be read as text in UTF-8, or has no such line.
    """
    queries = read_lines(path)
    if not queries:
        raise InputError(f"--queries {path}: holds no query; expected one a line")
    return queries


def check_queries(queries: Sequence[str]) -> None:
    """Refuse queries that say nothing."""
    if not queries:
        raise InputError("no query given; expected at least one sentence")
    for number, query in enumerate(queries, 1):
        if not query.strip():
            raise InputError(f"query {number} is empty; expected a sentence")
