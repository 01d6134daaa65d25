"""Annotation files as datasets publish them, as records with the official QVHighlights keys.

    Ego4D-NLQ               {"videos": [{"clips": ...}]}: sdst.data.ego4d
    Ego4D GoalStep          {"videos": [{"video_uid", "end_time", "segments": [...]}]}
    ActivityNet Captions    {vid: {"duration", "timestamps": [[s, e], ...], "sentences": [...]}}
    YouCook2                {"database": {vid: {"duration", "annotations": [{"segment", ...}]}}}
    MAD                     {qid: {"movie", "movie_duration", "ext_timestamps", "sentence"}}
    HiREST                  {prompt: {video: {"clip", "v_duration", "bounds": [s, e]}}}
    NExT-GQA                gsub_val.json {vid: {"duration", "location": {number: [[s, e], ...]}}},
                            beside val.csv, the questions
    TimeLens-Bench          {vid: {"duration", "spans": [[s, e], ...], "queries": [...]}}
    SnAG, HieraMamba and    {split: {vid: {"fps", "num_frames" or "duration", "annotations":
    UniversalVTG            [{"segment", "sentence", "sentence_id"}, ...]}}}, named FILE#SPLIT
    DiDeMo                  [{"annotation_id", "video", "description", "times": [[first, last]]}]
    TVR                     JSON lines {"desc_id", "desc", "vid_name", "duration", "ts": [s, e]}

A moment beyond the video is cut, one outside of it or without length is left out; both are counted.
"""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sdst.data.ego4d import read_ego4d
from sdst.data.jsonl import read_json_lines
from sdst.errors import InputError
from sdst.files.text import is_number, read_json, read_text

DIDEMO_SEGMENT = 5.0  # seconds (Hendricks et al., ICCV 2017)
_OF_RECORDS = (b'"label"', b'"relevant_windows"', b'"saliency_scores"', b'"relevant_clip_ids"')
_OF_DOCUMENTS = (b'"version"', b'"date"', b'"description"', b'"manifest"', b'"videos"', b'"split"')

Record = tuple[str, dict]
Read = Callable[[Any, Path, Counter[str]], Iterator[Record]]


def is_document(path: str | Path) -> bool:
    """Whether a file is one JSON value, not a record a line: by how it begins."""
    try:
        if not Path(path).is_file():  # a pipe can be read once
            return False
        with open(path, "rb") as file:
            head = file.read(4096)
    except (OSError, ValueError):  # reported by its reader
        return False
    begin = head.removeprefix(BOM_UTF8).lstrip()
    if begin.startswith(b"["):
        return True
    key, _, value = begin.removeprefix(b"{").lstrip().partition(b":")
    if not begin.startswith(b"{") or key.strip() in _OF_RECORDS:
        return False
    return key.strip() in _OF_DOCUMENTS or value.lstrip().startswith(b"{")


def read_document(
    path: str | Path, repairs: Counter[str], split: str | None = None
) -> Iterator[Record]:
    """Yield (where in the document, record) for every query of an official file.

    Args:
        repairs: receives how much was cut or left out, by kind.
        split: of a file that has several.

    Raises:
        InputError: it is of no known dataset, or lacks something; it names the place.
    """
    path = Path(path)
    document = read_json(path)
    if isinstance(document, dict) and _has_splits(document):
        if split not in document:
            raise InputError(
                f"{path}: no split {split!r} in it; name one of {', '.join(document)} as "
                f"{path.name}#SPLIT"
            )
        document = document[split]
    reader = next((read for is_it, read in FORMATS if is_it(document)), None)
    if reader is None:
        raise InputError(
            f"{path}: one JSON value of no known dataset; expected one JSON object a line, or a "
            "file as Ego4D, ActivityNet Captions, YouCook2, MAD, HiREST, NExT-GQA, TimeLens-Bench, "
            "SnAG or DiDeMo publish it"
        )
    try:
        yield from reader(document, path, repairs)
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise InputError(
            f"{path}: not as its dataset publishes it ({type(error).__name__}: {error})"
        ) from None


def read_lines(path: str | Path, repairs: Counter[str]) -> Iterator[Record]:
    """Yield (`path:line`, record) of JSON lines: those of TVR in the official keys, those of
    Ego4D-NLQ, as R2-Tuning and CG-DETR have them, without moments that are no moments."""
    for where, record in read_json_lines(path):
        if "desc_id" in record:
            yield where, _of_tvr(record)
        elif "video_uid" in record and isinstance(record.get("relevant_windows"), list):
            qid, query, vid = (record.get(key) for key in ("qid", "query", "vid"))
            spans = record["relevant_windows"]
            yield from _query(where, qid, query, vid, record.get("duration"), spans, repairs)
        else:
            yield where, record


def _of_tvr(record: dict) -> dict:
    found = {
        "qid": record["desc_id"],
        "query": record.get("desc"),
        "vid": record.get("vid_name"),
        "duration": record.get("duration"),
    }
    moment = record.get("ts")
    if moment is None:  # of the test set
        return found
    return {**found, "relevant_windows": moment if isinstance(moment[0], list) else [moment]}


def _goalstep(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    """Steps and what they consist of, in the order of the dataset's own conversion to NLQ."""
    for at, video in enumerate(document["videos"]):
        uid, end = video["video_uid"], video["end_time"]
        steps = [x for step in video["segments"] for x in (step, *step.get("segments", []))]
        for number, step in enumerate(steps):
            qid = f"{uid}_{video['start_time']}_{end}_{number}"
            spans = [[step["start_time"], step["end_time"]]]
            where = f"{path}: videos[{at}] step {number}"
            yield from _query(where, qid, step["step_description"], uid, end, spans, repairs)


def _captions(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    for vid, video in document.items():
        pairs = zip(video["timestamps"], video["sentences"], strict=True)
        for number, (span, sentence) in enumerate(pairs):
            where, qid = f"{path}: {vid} sentence {number}", f"{vid}_{number}"
            yield from _query(where, qid, sentence, vid, video["duration"], [span], repairs)


def _youcook2(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    for vid, video in document["database"].items():
        for step in video.get("annotations", []):
            where, qid = f"{path}: {vid} annotation {step['id']}", f"{vid}_{step['id']}"
            spans, sentence = [step["segment"]], step["sentence"]
            yield from _query(where, qid, sentence, vid, video["duration"], spans, repairs)


def _mad(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    for qid, query in document.items():
        where, movie, duration = f"{path}: {qid}", str(query["movie"]), query["movie_duration"]
        # The dataset's own baseline scores on the extended moments.
        spans = [query.get("ext_timestamps", query["timestamps"])]
        yield from _query(where, qid, query["sentence"], movie, duration, spans, repairs)


def _hirest(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    """Of the videos that show what a prompt asks for, those of which a part does."""
    for prompt, videos in document.items():
        for name, video in videos.items():
            if not video.get("clip"):
                continue
            where, vid = f"{path}: {prompt!r} {name}", name.removesuffix(".mp4")
            spans, duration = [video["bounds"]], video["v_duration"]
            yield from _query(where, f"{vid}_{prompt}", prompt, vid, duration, spans, repairs)


def _nextgqa(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    """Questions are in `val.csv` beside `gsub_val.json`."""
    table = path.with_name(f"{path.stem.rpartition('_')[2]}.csv")
    rows = csv.DictReader(read_text(table).splitlines())
    questions = {(row["video_id"], row["qid"]): row["question"] for row in rows}
    for vid, video in document.items():
        for number, spans in video["location"].items():
            where = f"{path}: {vid} question {number}"
            if (vid, number) not in questions:
                raise InputError(f"{where}: not in {table}; expected the same split")
            question = questions[vid, number]
            qid = f"{vid}_{number}"
            yield from _query(where, qid, question, vid, video["duration"], spans, repairs)


def _timelens(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    for vid, video in document.items():
        pairs = zip(video["spans"], video["queries"], strict=True)
        for number, (span, sentence) in enumerate(pairs):
            where, qid = f"{path}: {vid} query {number}", f"{vid}_{number}"
            yield from _query(where, qid, sentence, vid, video["duration"], [span], repairs)


def _didemo(document: list, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    """Every annotator's segments, equal ones as often as they were chosen."""
    for at, query in enumerate(document):
        duration = query["num_segments"] * DIDEMO_SEGMENT
        spans = [
            [first * DIDEMO_SEGMENT, (last + 1) * DIDEMO_SEGMENT] for first, last in query["times"]
        ]
        qid, where = query["annotation_id"], f"{path}: [{at}]"
        sentence, vid = query["description"], query["video"]
        yield from _query(where, qid, sentence, vid, duration, spans, repairs)


def _has_splits(document: dict) -> bool:
    """Whether it is a file of SnAG's kind: videos with their annotations, by split."""
    found = _first(_first(document)).get("annotations")
    return isinstance(found, list) and "database" not in document  # which YouCook2's is


def _snag(document: dict, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    """A video's queries; one without an id is called after its place (libs/data/dataset.py:129)."""
    for vid, video in document.items():
        frames = video.get("num_frames")
        duration = video["duration"] if "duration" in video else frames / video["fps"]
        for number, query in enumerate(video.get("annotations", ())):
            qid = query.get("sentence_id", f"{vid}_{number:04d}")
            where = f"{path}: {vid}, query {number + 1}"
            spans = [query["segment"]]
            yield from _query(where, qid, query["sentence"], vid, duration, spans, repairs)


def _query(
    where: str,
    qid: object,
    sentence: object,
    vid: object,
    duration: object,
    spans: list[Any],
    repairs: Counter[str],
) -> Iterator[Record]:
    """The record of a query, unless nothing of it is in the video."""
    if not is_number(duration):
        raise InputError(f"{where}: the video's duration is {duration!r}, expected seconds")
    windows = []
    for span in spans:
        start, end = (span[0], span[1]) if len(span) == 2 else (None, None)
        if not is_number(start) or not is_number(end):
            raise InputError(f"{where}: moment {span!r}, expected [start, end] in seconds")
        start, end = sorted((float(start), float(end)))
        if start < 0 or end > duration:
            repairs["moments cut to the video"] += 1
            start, end = max(start, 0.0), min(end, float(duration))
        if end <= start:
            repairs["moments outside of the video or without length left out"] += 1
        else:
            windows.append([start, end])
    if windows:
        shared = {"vid": vid, "duration": float(duration), "relevant_windows": windows}
        yield where, {"qid": qid, "query": sentence, **shared}


def _first(document: object) -> dict:
    """The first entry of an object, where it is an object itself."""
    values = iter(document.values()) if isinstance(document, dict) else iter(())
    first = next(values, None)
    return first if isinstance(first, dict) else {}


def _videos(document: object) -> list:
    videos = document.get("videos") if isinstance(document, dict) else None
    return videos if isinstance(videos, list) else []


def _has(*keys: str) -> Callable[[object], bool]:
    return lambda document: set(keys) <= _first(document).keys()


def _is_goalstep(document: object) -> bool:
    return any(isinstance(video, dict) and "segments" in video for video in _videos(document)[:1])


def _is_didemo(document: object) -> bool:
    return isinstance(document, list) and all(
        isinstance(query, dict) and "times" in query for query in document[:1]
    )


def _ego4d(_: object, path: Path, repairs: Counter[str]) -> Iterator[Record]:
    return read_ego4d(path, repairs)


FORMATS: tuple[tuple[Callable[[object], bool], Read], ...] = (
    (_is_goalstep, _goalstep),
    (lambda x: isinstance(x, dict) and (bool(_videos(x)) or "videos" in x), _ego4d),
    (lambda x: isinstance(x, dict) and isinstance(x.get("database"), dict), _youcook2),
    (_has("timestamps", "sentences"), _captions),
    (_has("timestamps", "sentence", "movie"), _mad),
    (lambda x: isinstance(_first(x).get("annotations"), list), _snag),
    (_has("location", "duration"), _nextgqa),
    (_has("spans", "queries"), _timelens),
    (lambda x: "clip" in _first(_first(x)), _hirest),
    (_is_didemo, _didemo),
)
