"""JSON lines: one record a line, faults reported by line, files written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sdst.errors import InputError, disguise
from sdst.files.publish import replace_text
from sdst.files.text import decode, open_file, parse_json

LONGEST_LINE = 2**26  # bytes; a record has some thousands


def read_json_lines(path: str | Path) -> Iterator[tuple[str, dict]]:
    """Yield (`path:line`, record) for every line that is not blank.

    Raises `InputError` for a file that cannot be read, a line that is not a JSON object in UTF-8,
    and a file without any record.
    """
    empty = True
    with open_file(path) as file:
        for number, line in enumerate(_lines(file, path), start=1):
            if text := decode(line, path, number).strip():
                where = f"{path}:{number}"
                yield where, _parse_record(text, where, path if empty else None)
                empty = False
    if empty:
        raise InputError(f"{path}: the file is empty; expected one JSON object a line")


def _lines(file: BinaryIO, path: str | Path) -> Iterator[bytes]:
    """The lines of a file, in bounded memory."""
    try:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE:
                raise InputError(
                    f"{path}: has a line of {LONGEST_LINE:,} bytes or more; expected one JSON "
                    "object a line"
                )
            yield line
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_record(line: str, where: str, first_of: str | Path | None) -> dict:
    """The object of a line; the first one of a file shows whether it is another kind of file."""
    try:
        record = parse_json(line, where)
    except InputError:
        if first_of is not None and (found := disguise(first_of)):
            raise InputError(f"{first_of}: {found}") from None
        raise
    if not isinstance(record, dict):
        raise InputError(f"{where}: found {str(record)[:40]}, expected a JSON object {{...}}")
    return record


def write_json_lines(path: str | Path, records: Iterable[dict]) -> None:
    """Write one record a line; `path` is replaced only once everything is written."""
    replace_text(path, "".join(json.dumps(record) + "\n" for record in records))
