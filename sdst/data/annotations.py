"""Annotations of the field: JSON lines, one query a line, in the official QVHighlights keys.

    {"qid": 2579, "query": "...", "vid": "...", "duration": 150, "relevant_windows": [[82, 150]],
     "relevant_clip_ids": [41, ...], "saliency_scores": [[1, 1, 2], ...]}

The last two come with highlight labels only; a query without `relevant_windows` is unlabelled.

TVSum and YouTube Highlights label every clip instead, TVSum by 20 annotators from 1 to 5, YouTube
Highlights by one, above 0 where the clip is in the highlight:

    {"qid": "xmEERLqJ2kU", "vid": "xmEERLqJ2kU", "query": "...", "duration": 94, "domain": "VT",
     "label": [[2, 1, ...], ...]}

Other datasets' own files are read as they are published; see `sdst.data.official`.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from sdst.data.jsonl import write_json_lines
from sdst.data.official import is_document, read_document, read_lines
from sdst.errors import InputError
from sdst.files.text import is_file_name, is_number, whole_characters

logger = logging.getLogger(__name__)

NUM_RATERS = 3
MAX_RATING = 4
# ActivityNet Captions has windows that end after the video, by 0.01 s in the 5 of val_1; these are
# clamped. What ends later than this (seconds) is taken for a fault of the file.
END_TOLERANCE = 0.5
MAX_DURATION = 10**6  # s, eleven days: arrays of a number per clip stay small

NO_SENTENCE = "highlights"  # stands for the query of a dataset without sentences

Window = tuple[float, float]


@dataclass(frozen=True)
class Annotation:
    """A sentence, its video, and where in the video it holds.

    Args:
        qid: the query's unique id.
        query: the sentence.
        vid: the video's id, its file name without suffix.
        duration: of the video, in seconds.
        windows: (start, end) in seconds of every moment; None where unlabelled.
        clip_ids: the relevant clips, counted from 0; None without highlight labels.
        saliency: three raters' ratings, 0 (very bad) to 4 (very good), of every relevant clip.
        labels: what each annotator said of every clip, `[L, A]`; None where clips are not labelled.
        domain: the topic that figures of such labels are averaged over first.
    """

    qid: int | str
    query: str
    vid: str
    duration: float
    windows: tuple[Window, ...] | None = None
    clip_ids: tuple[int, ...] | None = None
    saliency: tuple[tuple[int, ...], ...] | None = None
    labels: tuple[tuple[float, ...], ...] | None = None
    domain: str | None = None

    @property
    def has_truth(self) -> bool:
        """Whether there is anything to learn from and to score against."""
        return self.windows is not None or self.labels is not None

    def ratings_per_clip(self, num_clips: int) -> np.ndarray:
        """Ratings [num_clips, 3] of every clip of the video, 0 where not relevant.

        A relevant clip just behind the last one is left out, as features and rounded durations
        may be one clip short; one further behind is an `InputError`.
        """
        if self.clip_ids is None or self.saliency is None:
            raise InputError(f"qid {self.qid!r}: has no saliency_scores")
        ratings = np.zeros((num_clips + 1, NUM_RATERS))
        if self.clip_ids:
            if max(self.clip_ids) > num_clips:
                raise InputError(
                    f"qid {self.qid!r}: relevant clip {max(self.clip_ids)} of a video that has "
                    f"{num_clips} clips; check the clip length"
                )
            ratings[list(self.clip_ids)] = self.saliency
        return ratings[:num_clips]

    def saliency_per_clip(self, num_clips: int) -> np.ndarray:
        """Mean rating [num_clips] over the raters, 0 where not relevant."""
        return self.ratings_per_clip(num_clips).mean(axis=1)


def read_annotations(
    path: str | Path,
    repairs: Counter[str] | None = None,
    clip_length: float | None = None,
    sentences: bool = True,
    split: str | None = None,
) -> list[Annotation]:
    """Read and check an annotation file.

    Known blemishes of public files are repaired: spaces around a query are stripped, a window that
    ends at most `END_TOLERANCE` after the video is clamped, half a character (of an emoji that was
    cut) is replaced. Their number is logged in one line and added to `repairs`, by kind. Any other
    fault is an `InputError` that names file and line.

    Args:
        clip_length: seconds per clip, where known: relevant clips must then be in the video, and
            moments shorter than a clip are counted with the repairs (`sdst.data.batches` trains
            on them as one clip; the annotation keeps them as they are).
        split: of a file that has several.
        sentences: without, a record may have no `query`; it is `NO_SENTENCE` then.
    """
    found: Counter[str] = Counter()
    annotations = []
    first_use: dict[int | str, str] = {}
    records = read_document(path, found, split) if is_document(path) else read_lines(path, found)
    for where, record in records:
        if not sentences:
            record = {"query": NO_SENTENCE, **record}
        annotation = _parse_annotation(record, where, found, clip_length)
        if clip_length is not None:
            _check_clips(annotation, clip_length, where, found)
        if annotation.qid in first_use:
            raise InputError(
                f"{where}: qid {annotation.qid!r} is already used at {first_use[annotation.qid]}; "
                "every query needs its own"
            )
        first_use[annotation.qid] = where
        annotations.append(annotation)
    if not annotations:
        raise InputError(f"{path}: holds no query with a sentence; expected at least one")
    if found:
        logger.warning("%s: %s", path, ", ".join(f"{n} {kind}" for kind, n in found.items()))
    if repairs is not None:
        repairs.update(found)
    return annotations


def write_annotations(path: str | Path, annotations: Iterable[Annotation]) -> None:
    """Write annotations in the official keys; the file appears complete or not at all."""
    write_json_lines(path, (_to_record(annotation) for annotation in annotations))


def _to_record(annotation: Annotation) -> dict:
    record = {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "duration": annotation.duration,
        "relevant_windows": annotation.windows,
        "relevant_clip_ids": annotation.clip_ids,
        "saliency_scores": annotation.saliency,
        "label": annotation.labels,
        "domain": annotation.domain,
    }
    return {key: value for key, value in record.items() if value is not None}


def _parse_annotation(
    record: dict, where: str, repairs: Counter[str], clip_length: float | None
) -> Annotation:
    if "label" in record:
        return _parse_labelled(record, where, repairs, clip_length)
    for key in ("qid", "query", "vid", "duration"):
        if key not in record:
            raise InputError(f"{where}: key {key!r} is missing")
    duration = _parse_duration(record["duration"], where)
    clip_ids, saliency = _parse_saliency(record, where)
    return Annotation(
        qid=parse_qid(record["qid"], where),
        query=_parse_query(record["query"], where, repairs),
        vid=_parse_vid(record["vid"], where),
        duration=duration,
        windows=_parse_windows(record.get("relevant_windows"), duration, where, repairs),
        clip_ids=clip_ids,
        saliency=saliency,
    )


def _parse_labelled(
    record: dict, where: str, repairs: Counter[str], clip_length: float | None
) -> Annotation:
    """A video whose clips are labelled one by one.

    Its labels say how many clips it has: TVSum's `duration` counts clips, not seconds. A file for
    scoring alone may leave out the rest: the topic then is the query, the qid the video.
    """
    for key in ("qid", "domain"):
        if key not in record:
            raise InputError(f"{where}: key {key!r} is missing")
    qid, domain = parse_qid(record["qid"], where), record["domain"]
    if not isinstance(domain, str) or not domain:
        raise InputError(f"{where}: domain is {domain!r}, expected the name of a topic")
    labels = _parse_labels(record["label"], where)
    return Annotation(
        qid=qid,
        query=_parse_query(record.get("query", domain), where, repairs),
        vid=_parse_vid(record.get("vid", str(qid)), where),
        duration=len(labels) * (clip_length or 1.0),
        labels=labels,
        domain=domain,
    )


def _parse_labels(rows: object, where: str) -> tuple[tuple[float, ...], ...]:
    if (
        not isinstance(rows, list)
        or not all(isinstance(row, list) and row and all(map(is_number, row)) for row in rows)
        or len(set(map(len, rows))) != 1
    ):
        raise InputError(
            f"{where}: label must be rows of numbers, a row for every clip, one number in it for "
            "every annotator"
        )
    return tuple(map(tuple, rows))


def parse_qid(qid: object, where: str) -> int | str:
    """Return `qid` if it can be one: an integer (QVHighlights) or a string (TACoS)."""
    if _is_integer(qid) or (isinstance(qid, str) and qid):
        return qid
    raise InputError(f"{where}: qid is {qid!r}, expected an integer or a string")


def _parse_query(query: object, where: str, repairs: Counter[str]) -> str:
    if not isinstance(query, str):
        raise InputError(f"{where}: query is {query!r}, expected a sentence")
    stripped = query.strip()
    if not stripped:
        raise InputError(f"{where}: query is empty, expected a sentence")
    if stripped != query:
        repairs["queries stripped of spaces"] += 1
    whole = whole_characters(stripped)
    if whole != stripped:
        repairs["queries with half a character, which is replaced"] += 1
    return whole


def _parse_vid(vid: object, where: str) -> str:
    if not isinstance(vid, str) or not vid or not is_file_name(vid):
        raise InputError(f"{where}: vid is {vid!r}, expected a video's name")
    return vid


def _parse_duration(duration: object, where: str) -> float:
    if not is_number(duration) or not 0 < duration <= MAX_DURATION:
        raise InputError(
            f"{where}: duration is {duration!r}, expected seconds above 0 (and at most "
            f"{MAX_DURATION:,})"
        )
    return float(duration)


def _parse_windows(
    windows: object, duration: float, where: str, repairs: Counter[str]
) -> tuple[Window, ...] | None:
    if windows is None:
        return None
    if not isinstance(windows, list) or not windows:
        raise InputError(
            f"{where}: relevant_windows is {windows!r}, expected [[start, end], ...]; "
            "leave the key out where the query is unlabelled"
        )
    return tuple(_parse_window(window, duration, where, repairs) for window in windows)


def _parse_window(window: object, duration: float, where: str, repairs: Counter[str]) -> Window:
    if not isinstance(window, list) or len(window) != 2 or not all(map(is_number, window)):
        raise InputError(f"{where}: window {window!r}, expected [start, end] in seconds")
    start, end = map(float, window)
    if end <= start:
        raise InputError(f"{where}: window {window} does not end after its start")
    if start < 0 or start >= duration or end > duration + END_TOLERANCE:
        raise InputError(f"{where}: window {window} is outside the video, [0, {duration:g}] s")
    if end > duration:
        repairs["windows clamped to the video's end"] += 1
    return start, min(end, duration)


def _parse_saliency(
    record: dict, where: str
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]] | tuple[None, None]:
    clip_ids, saliency = record.get("relevant_clip_ids"), record.get("saliency_scores")
    if clip_ids is None and saliency is None:
        return None, None
    if clip_ids is None or saliency is None:
        raise InputError(f"{where}: relevant_clip_ids and saliency_scores only make sense together")
    if not isinstance(clip_ids, list) or not all(_is_integer(i) and i >= 0 for i in clip_ids):
        raise InputError(f"{where}: relevant_clip_ids must be a list of clip numbers from 0")
    if len(set(clip_ids)) != len(clip_ids):
        raise InputError(f"{where}: relevant_clip_ids names a clip twice")
    if not isinstance(saliency, list) or len(saliency) != len(clip_ids):
        found = len(saliency) if isinstance(saliency, list) else repr(saliency)
        raise InputError(
            f"{where}: saliency_scores has length {found}, expected one entry for each of the "
            f"{len(clip_ids)} relevant_clip_ids"
        )
    for ratings in saliency:
        _check_ratings(ratings, where)
    return tuple(clip_ids), tuple(tuple(ratings) for ratings in saliency)


def _check_ratings(ratings: object, where: str) -> None:
    if (
        not isinstance(ratings, list)
        or len(ratings) != NUM_RATERS
        or not all(_is_integer(rating) and 0 <= rating <= MAX_RATING for rating in ratings)
    ):
        raise InputError(
            f"{where}: saliency_scores has {ratings!r}, "
            f"expected {NUM_RATERS} ratings of 0 to {MAX_RATING}"
        )


def _check_clips(
    annotation: Annotation, clip_length: float, where: str, repairs: Counter[str]
) -> None:
    clips = math.ceil(annotation.duration / clip_length)
    if annotation.clip_ids and max(annotation.clip_ids) >= clips:
        raise InputError(
            f"{where}: relevant_clip_ids has {max(annotation.clip_ids)}, but "
            f"{annotation.duration:g} s are {clips} clips of {clip_length:g} s, counted from 0"
        )
    if short := sum(end - start < clip_length for start, end in annotation.windows or ()):
        repairs["moments shorter than a clip, trained on as one clip"] += short


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
