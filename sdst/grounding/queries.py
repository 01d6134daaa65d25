"""Queries as a user gives them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdst.errors import InputError


def read_queries(path: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        InputError: the file cannot be read as text, or has no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--queries {path}: cannot be read as text ({error})") from None
    queries = [line for line in lines if line.strip()]
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
