"""The official annotations of Ego4D's natural language queries, as records like everybody's.

    {"videos": [{"video_uid": "...", "clips": [{"clip_uid": "...", "video_start_sec": 0.0,
      "video_end_sec": 480.0, "annotations": [{"annotation_uid": "...", "language_queries": [
        {"clip_start_sec": 43.5, "clip_end_sec": 47.7, "query": "...", ...}]}]}]}]}

A clip of the dataset is a video here, its `clip_uid` the vid; a query's id is `<annotation_uid>_
<number>`, the two keys of the official submission. Source: Grauman et al., CVPR 2022, and the
dataset's documentation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sdst.errors import InputError
from sdst.files.text import is_number, read_json


def read_ego4d(path: str | Path, repairs: Counter[str]) -> Iterator[tuple[str, dict]]:
    """Yield (where in the document, record with the official QVHighlights keys) for every query.

    Queries without a sentence and moments without length, which the public files have, are left
    out and counted in `repairs`. The test file has no moments.

    Raises:
        InputError: naming the place of whatever is missing.
    """
    document = read_json(path)
    found = False
    for at_video, video in _entries(document, "videos", str(path), ": "):
        for at_clip, clip in _entries(video, "clips", at_video):
            shared = {
                "vid": _get(clip, "clip_uid", at_clip),
                "duration": _seconds(clip, "video_end_sec", at_clip)
                - _seconds(clip, "video_start_sec", at_clip),
            }
            for at_pass, by_annotator in _entries(clip, "annotations", at_clip):
                uid = _get(by_annotator, "annotation_uid", at_pass)
                queries = _entries(by_annotator, "language_queries", at_pass)
                for number, (where, query) in enumerate(queries):
                    found = True
                    if record := _record(query, where, repairs):
                        yield where, {"qid": f"{uid}_{number}", **shared, **record}
    if not found:
        raise InputError(f"{path}: no language_queries in it; expected Ego4D's nlq_*.json")


def _record(query: dict, where: str, repairs: Counter[str]) -> dict | None:
    """Sentence and moment of a query; None where there is no use in it."""
    sentence = query.get("query")
    if sentence is None or (isinstance(sentence, str) and not sentence.strip()):
        repairs["queries without a sentence left out"] += 1
        return None
    if "clip_start_sec" not in query and "clip_end_sec" not in query:
        return {"query": sentence}
    start, end = (_seconds(query, f"clip_{name}_sec", where) for name in ("start", "end"))
    if start == end:
        repairs["moments without length left out"] += 1
        return None
    return {"query": sentence, "relevant_windows": [[start, end]]}


def _entries(parent: object, key: str, where: str, join: str = ".") -> Iterator[tuple[str, dict]]:
    """The objects of a list and the place of each."""
    entries = _get(parent, key, where)
    if not isinstance(entries, list):
        raise InputError(f"{where}{join}{key}: expected a list")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise InputError(f"{where}{join}{key}[{number}]: expected a JSON object {{...}}")
        yield f"{where}{join}{key}[{number}]", entry


def _get(entry: object, key: str, where: str) -> object:
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(f"{where}: key {key!r} is missing")
    return entry[key]


def _seconds(entry: dict, key: str, where: str) -> float:
    value = _get(entry, key, where)
    if not is_number(value):
        raise InputError(f"{where}: {key} is {value!r}, expected seconds")
    return float(value)
