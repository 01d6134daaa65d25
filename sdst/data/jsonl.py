"""JSON lines: one record a line, faults told by line, files written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sdst.errors import InputError


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict]]:
    """Yield (`path:line`, record) for every line that is not blank.

    Raises `InputError` for a file that cannot be read, a line that is not a JSON object, and a
    file without any record.
    """
    empty = True
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, _parse_record(line, where)
                    empty = False
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if empty:
        raise InputError(f"{path}: the file is empty; expected one JSON object a line")


def _parse_record(line: bytes, where: str) -> dict:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise InputError(f"{where}: not JSON in UTF-8: {error}") from error
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {str(record)[:40]}, expected a JSON object {{...}}")
    return record


def write_json_lines(path: str | Path, records: Iterable[dict]) -> None:
    """Write one record a line; `path` is replaced only once everything is written."""
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))


def replace_text(path: str | Path, text: str) -> None:
    """Make `text` the content of `path` at once, creating its folder where needed."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
