"""CSV, TSV and their kin: a row for every moment, under a header."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from sdst.errors import InputError, disguise
from sdst.importing.fields import REQUIRED, Field, recognise
from sdst.importing.rows import Doubt, Row
from sdst.terminal.suggest import did_you_mean

DELIMITERS = (",", ";", "\t", "|")
_EXCEL = re.compile(r"sep=([,;|:\t])\s*")  # a first line that Excel reads and writes


class Line(NamedTuple):
    """A row of cells, and the line of the file on which it begins."""

    number: int
    cells: list[str]


def read_table(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    """The moments of a table.

    Args:
        columns: names, or numbers from 1 where the table has no header.

    Raises:
        InputError: it is no table, or has no column for a field.
    """
    header, lines = read_cells(text, path, columns)
    if columns and all(column.isdecimal() for column in columns.values()):
        lines = [Line(1, header), *lines] if header else lines
        header = [str(number) for number in range(1, len(header) + 1)]
    fields = _fields(header, columns, path)
    for line in lines:
        yield _row(line, header, fields, path)


def read_cells(text: str, path: Path, columns: Mapping[str, str]) -> tuple[list[str], list[Line]]:
    """The header of a table, and the rows that are not empty.

    Raises:
        InputError: it is no table, or has a quote that does not end.
    """
    if found := disguise(path):
        raise InputError(f"{path}: {found}")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    head, skipped = text.partition("\n")[0], 0
    if excel := _EXCEL.fullmatch(head):
        text, skipped = text[len(head) + 1 :], 1
        delimiter = excel[1]
    else:
        delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else _delimiter(head, columns)
    lines = list(table_lines(text, delimiter, skipped, path))
    if not lines:
        raise InputError(f"{path}: has no row; expected a header and a row for every moment")
    return [cell.strip() for cell in lines[0].cells], lines[1:]


def table_lines(text: str, delimiter: str, skipped: int, path: Path) -> Iterator[Line]:
    """The rows of a table that are not empty.

    Args:
        skipped: lines of the file before `text`.

    Raises:
        InputError: a quote does not end, or is within a cell.
    """
    table = csv.reader(StringIO(text), delimiter=delimiter, strict=True)
    begin = skipped + 1
    try:
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield Line(begin, cells)
            begin = skipped + table.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}:{begin}: not a row of a table ({error}); write a quote within quotes twice"
        ) from None


def _delimiter(header: str, columns: Mapping[str, str]) -> str:
    """The character that makes the most of a header's names fields, else the most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            [names] = csv.reader([header], delimiter=delimiter) if header.strip() else [[]]
        except csv.Error:  # is reported where the table is read
            return 0, 0
        return len(recognise([name.strip() for name in names], columns)), len(names)

    return max(DELIMITERS, key=fit)


def _fields(header: list[str], columns: Mapping[str, str], path: Path) -> dict[str, Field]:
    fields = recognise(header, columns)
    for field, column in columns.items():
        if field not in fields:
            raise InputError(
                f"--columns {field}={column}: no such column in {path}, which has "
                f"{', '.join(header)}{did_you_mean(column, header)}"
            )
    if lacking := [field for field in REQUIRED if field not in fields]:
        advice = " ".join(f"{field}=COLUMN" for field in lacking)
        raise InputError(
            f"{path}: no column for {', '.join(lacking)} among {', '.join(header)}; name them with "
            f"--columns {advice}, by numbers where there is no header"
        )
    return fields


def _row(line: Line, header: list[str], fields: Mapping[str, Field], path: Path) -> Row | Doubt:
    where, cells = f"{path}:{line.number}", line.cells
    if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
        return Doubt(
            where,
            f"has {len(cells)} columns of {len(header)}; put a text with a comma in quotes",
        )
    named = dict(zip(header, cells, strict=False))
    said = {field: named.get(key, "").strip() for field, (key, _) in fields.items()}
    if absent := [field for field in REQUIRED if field != "sentence" and not said[field]]:
        return Doubt(where, f"has no {', '.join(absent)}")
    return Row(
        where,
        (said["video"],),
        said["sentence"],
        said["start"],
        said["end"],
        fields["start"].unit,
        fields["end"].unit,
        said.get("split") or None,
    )
