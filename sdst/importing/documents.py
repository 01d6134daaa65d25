"""JSON of any shape: moments wherever they are in it, with the context above them.

[{"video": "park.mp4", "start": 12, "end": 15.5, "sentence": "a dog jumps"}, ...]
{"park": {"timestamps": [[12, 15.5], ...], "sentences": ["a dog jumps", ...]}, ...}
[{"file": "park.mp4", "moments": [{"begin": "0:12", "end": "0:15", "caption": "..."}]}, ...]
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdst.data.jsonl import read_json_lines
from sdst.errors import InputError
from sdst.files.text import is_number
from sdst.importing.fields import recognise
from sdst.importing.located import object_lines
from sdst.importing.rows import Doubt, Row, Unit, Value

Where = Callable[[object], str]
OF_A_MOMENT = {"start", "end", "windows", "sentences"}


@dataclass(frozen=True)
class Known:
    """Values of the objects around a place in a document.

    Args:
        keys: under which the place is, from the outermost on: a video's name may be among them.
    """

    video: str | None = None
    start: Value | None = None
    end: Value | None = None
    start_unit: Unit = "s"
    end_unit: Unit = "s"
    windows: tuple[tuple[Value, Value], ...] = ()
    sentences: tuple[str, ...] = ()
    split: str | None = None
    keys: tuple[str, ...] = ()

    @property
    def spans(self) -> tuple[tuple[Value, Value], ...]:
        """Start and end of every moment."""
        if self.start is not None and self.end is not None:
            return ((self.start, self.end),)
        return self.windows

    @property
    def videos(self) -> tuple[str, ...]:
        return self.keys[::-1] if self.video is None else (self.video,)


def read_document(
    document: object, text: str, path: Path, columns: Mapping[str, str]
) -> Iterator[Row | Doubt]:
    """The moments of a JSON file.

    Args:
        document: what its `text` stands for.

    Raises:
        InputError: nothing in it looks like a moment.
    """
    return moments_in(document, located(document, text, path), columns, path)


def read_lines_of_json(path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    """The moments of a file with a JSON object on every line."""
    for where, record in read_json_lines(path):
        yield from moments_in(record, lambda _, where=where: where, columns, path)


def located(document: object, text: str, path: Path) -> Where:
    """A name for the place of an object of `document`."""
    lines = object_lines(document, text)
    return lambda node: f"{path}:{lines[id(node)]}"


def moments_in(
    document: object, where: Where, columns: Mapping[str, str], path: Path
) -> Iterator[Row | Doubt]:
    """The moments of a document, in their order.

    Raises:
        InputError: nothing in it looks like a moment.
    """
    empty = True
    for found in _walk(document, Known(), where, columns):
        empty = False
        yield found
    if empty:
        raise InputError(
            f"{path}: no moment found in it; expected objects with start, end and sentence, or "
            "--columns FIELD=KEY"
        )


def _walk(
    node: object, known: Known, where: Where, columns: Mapping[str, str]
) -> Iterator[Row | Doubt]:
    if isinstance(node, list):
        for child in node:
            yield from _walk(child, known, where, columns)
    if not isinstance(node, dict):
        return
    said = _said(node, columns)
    known = replace(known, **said)
    if OF_A_MOMENT & said.keys() and known.sentences and known.spans:
        yield from _rows(known, where(node))
        return
    inner = {key: value for key, value in node.items() if _holds_objects(value)}
    for key, value in inner.items():
        yield from _walk(value, replace(known, keys=(*known.keys, key)), where, columns)
    if not inner and (lacking := _lacks(known, said)):
        yield Doubt(where(node), f"has no {lacking}")


def _said(node: dict, columns: Mapping[str, str]) -> dict[str, Any]:
    """An object's own values, by the names in `Known`."""
    said: dict[str, Any] = {}
    for name, (key, unit) in recognise(node.keys(), columns).items():
        value = node[key]
        if name in ("start", "end") and _is_scalar(value):
            said |= {name: value, f"{name}_unit": unit}
        elif name == "windows" and (spans := _spans(value)):
            said |= {name: spans, "start_unit": unit, "end_unit": unit}
        elif name == "sentence" and (texts := _texts(value)):
            said["sentences"] = texts
        elif name in ("video", "split") and _is_scalar(value):
            said[name] = str(value)
    return said


def _rows(known: Known, where: str) -> Iterator[Row | Doubt]:
    spans, sentences = known.spans, known.sentences
    if not known.videos:
        yield Doubt(where, "names no video")
        return
    if len(sentences) > 1 and len(spans) not in (1, len(sentences)):
        yield Doubt(where, f"has {len(spans)} moments for {len(sentences)} sentences")
        return
    if len(sentences) == 1:
        sentences *= len(spans)
    elif len(spans) == 1:
        spans *= len(sentences)
    for (start, end), sentence in zip(spans, sentences, strict=True):
        yield Row(
            where,
            known.videos,
            sentence,
            start,
            end,
            known.start_unit,
            known.end_unit,
            known.split,
        )


def _lacks(known: Known, said: Collection[str]) -> str | None:
    """A message for an object with some but not all parts of a moment."""
    if {"start", "end", "windows"} & set(said):
        if not known.sentences:
            return "sentence"
        return "start" if known.start is None else "end"
    if known.sentences and known.video is not None:
        return "start and end"
    return None


def _spans(value: object) -> tuple[tuple[Value, Value], ...]:
    """(start, end) of a pair, or of a list of pairs; nothing of what is neither."""
    if not isinstance(value, list):
        return ()
    pairs = value if any(isinstance(part, list) for part in value) else [value]
    if all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_scalar, pair)) for pair in pairs
    ):
        return tuple((start, end) for start, end in pairs)
    return ()


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    return ()


def _is_scalar(value: object) -> bool:
    return isinstance(value, str) or is_number(value)


def _holds_objects(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_objects, value))
    return isinstance(value, dict)
