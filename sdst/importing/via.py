"""VGG's annotators: projects (JSON) and tables (CSV) of VIA 2 and 3.

VIA 3 has moments of its own, `z: [start, end]` in seconds, with attributes that hold the text.
VIA 2 knows pictures; who uses it for moments keeps times in attributes of files or regions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sdst.errors import InputError
from sdst.files.text import parse_json
from sdst.importing.documents import Where, located, moments_in
from sdst.importing.rows import Doubt, Row
from sdst.importing.tables import Line, read_cells, table_lines

DEFAULT = "_DEFAULT"  # the value of an attribute that nobody has filled in
TEXT = 1  # the type of an attribute; others have options
V2_ATTRIBUTES = ("file_attributes", "region_attributes")
V3_PARTS = ("metadata", "view", "file", "attribute")
HEADER = "# CSV_HEADER = "


def is_project(document: object) -> bool:
    """Whether JSON is a project of VIA."""
    return isinstance(document, dict) and (
        "_via_img_metadata" in document or {"project", *V3_PARTS} <= document.keys()
    )


def is_table(text: str) -> bool:
    """Whether the text of a table is one of VIA's exports."""
    return HEADER in text or any(name in text.partition("\n")[0] for name in V2_ATTRIBUTES)


def read_project(
    document: Any, text: str, path: Path, columns: Mapping[str, str]
) -> Iterator[Row | Doubt]:
    """The moments of a project.

    Args:
        document: what the `text` of the file stands for.
        columns: `sentence` is an attribute.

    Raises:
        InputError: parts of it are missing, or there is no moment in it.
    """
    where = located(document, text, path)
    if "_via_img_metadata" in document:
        return moments_in(document["_via_img_metadata"], where, columns, path)
    return _project_3(document, where, columns, path)


def read_via_table(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    """The moments of a table that VIA exported.

    Raises:
        InputError: it is none, or there is no moment in it.
    """
    if HEADER in text:
        return _table_3(text, path, columns)
    return _table_2(text, path, columns)


def _project_3(
    document: Any, where: Where, columns: Mapping[str, str], path: Path
) -> Iterator[Row | Doubt]:
    for part in V3_PARTS:
        if not _is_object_of_objects(document[part]):
            raise InputError(f"{path}: {part}: expected an object of objects, as VIA 3 writes it")
    files = {
        fid: str(file.get("fname") or file.get("src")) for fid, file in document["file"].items()
    }
    for entry in document["metadata"].values():
        view = document["view"].get(str(entry.get("vid")), {})
        listed = view.get("fid_list")
        fids = map(str, listed if isinstance(listed, list) else [])
        videos = tuple(files[fid] for fid in fids if fid in files)
        attributes = document["attribute"]
        moment = _moment(where(entry), videos, entry.get("z"), entry.get("av"), attributes, columns)
        if moment is not None:
            yield moment


def _table_3(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    comments = [line for line in text.splitlines() if line.startswith("#")]
    attributes: Any = {}
    for number, line in enumerate(comments, 1):
        name, _, value = line.partition(" = ")
        if name in ("# ATTRIBUTE", "# ATTRIBUTES"):
            attributes = parse_json(value, f"{path}:{number}")
    header = next(x for x in comments if x.startswith(HEADER)).removeprefix(HEADER).split(",")
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    for line in table_lines("".join(lines[first:]), ",", first, path):
        where = f"{path}:{line.number}"
        cells = _with_values(line, [name.strip() for name in header], where)
        span = cells.get("temporal_coordinates")
        if span is None:
            span = [cells.get("temporal_segment_start"), cells.get("temporal_segment_end")]
        files = cells.get("file_list")
        videos = tuple(map(str, files if isinstance(files, list) else [files]))
        moment = _moment(where, videos, span, cells.get("metadata"), attributes, columns)
        if moment is not None:
            yield moment


def _table_2(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    header, lines = read_cells(text, path, columns)
    records = {f"{path}:{x.number}": _with_values(x, header, f"{path}:{x.number}") for x in lines}
    places = {id(node): where for where, record in records.items() for node in _objects(record)}
    return moments_in(list(records.values()), lambda node: places[id(node)], columns, path)


def _moment(
    where: str,
    videos: tuple[str, ...],
    span: object,
    values: object,
    attributes: Any,
    columns: Mapping[str, str],
) -> Row | Doubt | None:
    """A moment of VIA 3; None for a mark in a still frame, which has one time."""
    if not isinstance(span, list) or not all(isinstance(x, str | int | float) for x in span):
        return Doubt(where, "has no times")
    if len(span) < 2:
        return None
    texts = _texts(values if isinstance(values, dict) else {}, attributes)
    if (chosen := columns.get("sentence")) is not None:
        texts = {name: text for name, text in texts.items() if name == chosen}
    if len(set(texts.values())) > 1:
        return Doubt(
            where, f"has several texts ({', '.join(texts)}); choose: --columns sentence=NAME"
        )
    if not videos:
        return Doubt(where, "names no video")
    return Row(where, videos, next(iter(texts.values()), ""), span[0], span[-1])


def _texts(values: Mapping[str, object], attributes: Any) -> dict[str, str]:
    """Attributes with a value, by name; options by their text."""
    texts: dict[str, str] = {}
    for key, value in values.items():
        attribute = attributes.get(key) if isinstance(attributes, dict) else None
        if isinstance(attribute, str):
            attribute = {"aname": attribute}
        attribute = attribute if isinstance(attribute, dict) else {}
        text, options = str(value), attribute.get("options")
        if attribute.get("type", TEXT) != TEXT and isinstance(options, dict):
            text = ", ".join(str(options.get(x, x)) for x in text.split(",") if x)
        if text.strip() and text != DEFAULT:
            texts[str(attribute.get("aname") or key)] = text
    return texts


def _with_values(line: Line, header: list[str], where: str) -> dict[str, Any]:
    """A row by its header; cells of JSON are what they stand for."""
    found: dict[str, Any] = {}
    for name, cell in zip(header, line.cells, strict=False):
        text = cell.strip()
        found[name] = parse_json(text, where) if text.startswith(("{", "[")) else text
    return found


def _objects(node: object) -> Iterator[object]:
    """All objects in a document."""
    if isinstance(node, dict):
        yield node
    if isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _objects(child)


def _is_object_of_objects(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(child, dict) for child in value.values())
