"""Which program wrote a file, by its ending and by what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sdst.errors import InputError, disguise
from sdst.files.text import parse_json, read_text
from sdst.importing import label_studio, via
from sdst.importing.documents import read_document, read_lines_of_json
from sdst.importing.elan import read_elan
from sdst.importing.rows import Doubt, Row
from sdst.importing.subtitles import read_subtitles
from sdst.importing.tables import read_table

# Of the text of a file; the path is for messages.
Reader = Callable[[str, Path, Mapping[str, str]], Iterator[Row | Doubt]]


def read_rows(path: Path, columns: Mapping[str, str]) -> list[Row | Doubt]:
    """The moments of a file, and doubts about records without a row.

    Args:
        columns: of a field that goes by another name than usual, the name.

    Raises:
        InputError: it cannot be read, is of no known format, or has no moments.
    """
    ending = path.suffix.lower()
    if ending not in (*READERS, *JSON_LINES):
        known = ", ".join((*READERS, *JSON_LINES))
        raise InputError(
            f"{path}: no known ending; expected one of {known} (ELAN is .eaf; VIA and Label Studio "
            "export JSON)"
        )
    try:
        if ending in JSON_LINES:
            return list(read_lines_of_json(path, columns))
        return list(READERS[ending](read_text(path), path, columns))
    except RecursionError:
        raise InputError(f"{path}: nested too deeply") from None


def _read_table(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    reader = via.read_via_table if via.is_table(text) else read_table
    return reader(text, path, columns)


def _read_json(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    try:
        document = parse_json(text, str(path))
    except InputError as error:
        if found := disguise(path):
            raise InputError(f"{path}: {found}") from None
        if _is_json_lines(text):
            return read_lines_of_json(path, columns)
        raise error from None
    if via.is_project(document):
        return via.read_project(document, text, path, columns)
    if label_studio.is_label_studio(document):
        return label_studio.read_tasks(document, text, path, columns)
    return read_document(document, text, path, columns)


def _is_json_lines(text: str) -> bool:
    first = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return isinstance(parse_json(first, ""), dict)
    except InputError:
        return False


READERS: dict[str, Reader] = {
    ".csv": _read_table,
    ".tsv": _read_table,
    ".tab": _read_table,
    ".txt": _read_table,
    ".json": _read_json,
    ".eaf": read_elan,
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
}
JSON_LINES = (".jsonl", ".ndjson")
