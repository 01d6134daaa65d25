"""Fields of videos by which a search is narrowed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path, PurePath

from sdst.data.video_files import VIDEO_ENDINGS
from sdst.errors import InputError
from sdst.files.text import is_number, parse_json, read_json, read_text, whole_characters

Value = float | str | bool
Fields = Mapping[str, Value]

NAMES_OF_VIDEO = ("vid", "video")
RESERVED = frozenset(["clip", "checksum", "vector"])
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TRUTHS = {"true": True, "false": False}


def read_metadata(path: Path) -> dict[str, Fields]:
    """The fields of every video in a file, by the video as it is named there.

    Args:
        path: a table, `.csv` or `.tsv`, with the columns `vid` (or `video`) and one for each field;
            or JSON, `{vid: {field: value}}`, a list of `{"vid": vid, field: value}`, or `.jsonl`
            with one of these a line. A field is a number, a text, or true or false; a value that
            is empty or null is not known.

    Raises:
        InputError: it cannot be read as one of these.
    """
    if path.suffix.lower() in (".csv", ".tsv"):
        records = _of_table(path)
    elif path.suffix.lower() == ".jsonl":
        lines = enumerate(read_text(path).splitlines(), 1)
        found = [(f"{path}:{n}", parse_json(t, f"{path}:{n}")) for n, t in lines if t.strip()]
        records = list(_of_records(found))
    else:
        records = list(_of_json(path))
    videos: dict[str, Fields] = {}
    for where, vid, fields in records:
        if vid in videos:
            raise InputError(f"{where}: video {vid} appears twice; keep one of them")
        _check(where, fields)
        videos[vid] = {name: value for name, value in fields.items() if value is not None}
    return videos


def matched(metadata: Mapping[str, Fields], vids: Collection[str]) -> dict[str, Fields]:
    """The fields of these videos, whose names may have their file's ending in the metadata."""
    without = {without_ending(name): fields for name, fields in metadata.items()}
    found = {vid: metadata.get(vid, without.get(vid)) for vid in vids}
    return {vid: fields for vid, fields in found.items() if fields is not None}


def without_ending(name: str) -> str:
    """The id of a video that is named by its file."""
    path = PurePath(name)
    return path.stem if path.suffix.lower() in VIDEO_ENDINGS else name


def types_of(metadata: Iterable[Fields]) -> dict[str, str]:
    """The type of every field: `number`, `text` or `truth`.

    Raises:
        InputError: a field has values of several.
    """
    types: dict[str, str] = {}
    for fields in metadata:
        for name, value in fields.items():
            kind = _type_of(value)
            if types.setdefault(name, kind) != kind:
                raise InputError(
                    f"--metadata: field {name} is {kind} in one video and {types[name]} in "
                    "another; expected one type"
                )
    return types


def _type_of(value: Value) -> str:
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"


def _check(where: str, fields: Mapping[str, object]) -> None:
    for name, value in fields.items():
        if not NAME.fullmatch(name) or name in RESERVED:
            raise InputError(
                f"{where}: no name of a field: {name!r}; expected letters, digits and _, and none "
                f"of {', '.join(sorted(RESERVED))}"
            )
        if value is not None and not isinstance(value, str | bool) and not is_number(value):
            raise InputError(
                f"{where}: field {name} is {value!r}; expected a number, a text, true or false"
            )
        if isinstance(value, str) and whole_characters(value) != value:
            raise InputError(
                f"{where}: field {name} is {value!r}, which has half a character; expected a text"
            )


def _of_table(path: Path) -> list[tuple[str, str, dict]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter)
    try:
        found = list(rows)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: no table ({error})") from None
    key = next((name for name in NAMES_OF_VIDEO if name in (rows.fieldnames or ())), None)
    if key is None:
        raise InputError(f"{path}: no column vid or video; expected one that names the videos")
    for number, row in enumerate(found, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}:{number}: expected {len(rows.fieldnames or ())} columns")
    names = [name for name in rows.fieldnames or () if name != key]
    columns = {name: _typed([row[name].strip() for row in found]) for name in names}
    return [
        (f"{path}:{n + 2}", row[key].strip(), {name: columns[name][n] for name in names})
        for n, row in enumerate(found)
    ]


def _typed(column: list[str]) -> list[Value | None]:
    """A table's column as numbers or truths where all that is given in it can be read so."""
    given = [text for text in column if text]
    if given and all(text.lower() in TRUTHS for text in given):
        return [TRUTHS[text.lower()] if text else None for text in column]
    try:
        numbers = [float(text) if text else None for text in column]
    except ValueError:
        return [text or None for text in column]
    if not all(is_number(number) for number in numbers if number is not None):
        return [text or None for text in column]
    return [*numbers]


def _of_json(path: Path) -> Iterable[tuple[str, str, dict]]:
    content = read_json(path)
    if isinstance(content, list):
        return _of_records((f"{path}: entry {n}", entry) for n, entry in enumerate(content, 1))
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected {{vid: {{field: value}}}} or a list of records")
    for vid, fields in content.items():
        if not isinstance(fields, dict):
            raise InputError(f"{path}: video {vid}: expected {{field: value}}, found {fields!r}")
    return [(f"{path}: video {vid}", vid, fields) for vid, fields in content.items()]


def _of_records(entries: Iterable[tuple[str, object]]) -> Iterable[tuple[str, str, dict]]:
    for where, entry in entries:
        key = next((k for k in NAMES_OF_VIDEO if isinstance(entry, dict) and k in entry), None)
        if not isinstance(entry, dict) or key is None or not isinstance(entry[key], str):
            raise InputError(f'{where}: expected {{"vid": vid, field: value, ...}}')
        yield where, entry[key], {name: value for name, value in entry.items() if name != key}
