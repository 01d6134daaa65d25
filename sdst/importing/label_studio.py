"""Label Studio's export (JSON): tasks with the results of annotators.

A region of sound has seconds, one of a video's time line numbers of frames from 1, both ends
included. A text area that belongs to a region is its sentence; without one its labels are.
Source: Label Studio's documentation of its Video, TimelineLabels, AudioPlus and TextArea tags.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from sdst.files.text import is_number
from sdst.importing.documents import located
from sdst.importing.fields import NAMES
from sdst.importing.rows import Doubt, Row, Unit


def is_label_studio(document: object) -> bool:
    """Whether JSON is a list of tasks with results."""
    return (
        isinstance(document, list)
        and bool(document)
        and all(isinstance(task, dict) and isinstance(task.get("data"), dict) for task in document)
        and any("annotations" in task or "completions" in task for task in document)
    )


def read_tasks(
    document: Any, text: str, path: Path, columns: Mapping[str, str]
) -> Iterator[Row | Doubt]:
    """The regions of all tasks; annotations that were cancelled, and predictions, are left out.

    Args:
        document: what the `text` of the file stands for.
        columns: `video` is a key of a task's data, `sentence` the name of a control.
    """
    where = located(document, text, path)
    for task in document:
        videos = _videos(task, columns.get("video"))
        for annotation in _dicts(task.get("annotations") or task.get("completions")):
            if annotation.get("was_cancelled"):
                continue
            results = list(_dicts(annotation.get("result")))
            texts = _texts_by_region(results, columns.get("sentence"))
            for place, region, spans, unit in _regions(results):
                for start, end in spans:
                    sentence = texts.get(str(region), "")
                    yield Row(where(place), videos, sentence, start, end, unit, unit)


def _regions(
    results: list[dict],
) -> Iterator[tuple[dict, object, list[tuple[float, float]], Unit]]:
    """Each result with times once: its place, id, spans, and what they count."""
    seen = set()
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict):
            continue
        ranges = [x for x in _dicts(value.get("ranges")) if _has_times(x)]
        region = result.get("id") or number
        unit: Unit = "frames" if ranges else "s"
        found = ranges or ([value] if _has_times(value) else [])
        if found and region not in seen:
            seen.add(region)
            yield result, region, [(x["start"], x["end"]) for x in found], unit


def _texts_by_region(results: list[dict], control: str | None) -> dict[str, str]:
    """The text of every region: what was written, else its labels."""
    written: dict[str, str] = {}
    labelled: dict[str, str] = {}
    for number, result in enumerate(results):
        value = result.get("value")
        if not isinstance(value, dict) or control not in (None, result.get("from_name")):
            continue
        region = str(result.get("id") or number)
        if (text := _joined(value.get("text"))) and result.get("type") == "textarea":
            written[region] = text
        elif text := _joined(value.get(str(result.get("type")))):
            labelled[region] = text
    return labelled | written


def _videos(task: dict, chosen: str | None) -> tuple[str, ...]:
    """Names of a task's file: as it was uploaded, without what an upload puts before it."""
    data = task["data"]
    keys = [chosen] if chosen else [key for key in NAMES["video"] if key in data] or list(data)
    given = [data[key] for key in keys if isinstance(data.get(key), str)]
    names = []
    for url in [*given, task.get("file_upload")]:
        if isinstance(url, str):
            path = _path_in(url)
            names += [path, path.rpartition("/")[2].partition("-")[2]]
    return tuple(dict.fromkeys(name for name in names if name))


def _path_in(url: str) -> str:
    try:
        parts = urlsplit(url)
        return parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    except ValueError:  # brackets of no address, or too many parts
        return url


def _dicts(value: object) -> Iterator[dict]:
    if isinstance(value, list):
        yield from (child for child in value if isinstance(child, dict))


def _has_times(value: dict) -> bool:
    return is_number(value.get("start")) and is_number(value.get("end"))


def _joined(value: object) -> str:
    """Texts as one."""
    texts = [value] if isinstance(value, str) else value
    return ", ".join(map(str, texts)) if isinstance(texts, list) else ""
