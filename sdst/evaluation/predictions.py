"""Predictions: the official submission, JSON lines, one query a line.

{"qid": 2579, "query": "...", "vid": "...",
 "pred_relevant_windows": [[start, end, score], ...],   # seconds, best first
 "pred_saliency_scores": [0.1, ...]}                    # one per clip

Windows may be left out where only clips are labelled (TVSum), saliency where only moments are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from sdst.data.annotations import parse_qid
from sdst.data.jsonl import read_json_lines, write_json_lines
from sdst.errors import InputError


@dataclass(frozen=True)
class Submitted:
    """A submission's answer to one query.

    Args:
        windows: [N, 3] of (start s, end s, score), N >= 1, in the order given: rank 1 is row 0;
            or None.
        saliency: [L], one score per clip, or None.
    """

    windows: np.ndarray | None
    saliency: np.ndarray | None


class Labelled(Protocol):
    """A query's ground truth, of whatever kind."""

    @property
    def qid(self) -> int | str: ...


Truth = TypeVar("Truth", bound=Labelled)


def read_predictions(path: str | Path) -> list[dict]:
    """Read and check a submission; a fault is an `InputError` that names file, line and qid."""
    records = list(read_json_lines(path))
    parse_predictions(records)
    return [record for _, record in records]


def write_predictions(path: str | Path, predictions: Iterable[dict]) -> None:
    """Check and write a submission; the file appears complete or not at all."""
    predictions = list(predictions)
    parse_predictions((str(path), prediction) for prediction in predictions)
    write_json_lines(path, predictions)


def parse_predictions(records: Iterable[tuple[str, dict]]) -> dict[int | str, Submitted]:
    """Check (where, record) pairs and return the predictions by qid, in the order given."""
    predictions: dict[int | str, Submitted] = {}
    for where, record in records:
        if "qid" not in record:
            raise InputError(f"{where}: key 'qid' is missing")
        qid = parse_qid(record["qid"], where)
        where = f"{where}: qid {qid!r}"
        if qid in predictions:
            raise InputError(f"{where} is predicted a second time; expected once")
        windows, saliency = _parse_windows(record, where), _parse_saliency(record, where)
        if windows is None and saliency is None:
            raise InputError(f"{where} has no pred_relevant_windows and no pred_saliency_scores")
        predictions[qid] = Submitted(windows, saliency)
    return predictions


def pair_predictions(
    predictions: Iterable[dict], truth: Sequence[Truth], source: str
) -> list[tuple[Submitted, Truth]]:
    """Every query of `truth` with its prediction, checked; both must hold the same queries.

    Args:
        source: what to call the predictions in an error.
    """
    if not truth:
        raise InputError(f"{source}: there are no annotations to score against")
    by_qid = parse_predictions((source, prediction) for prediction in predictions)
    annotated = {query.qid for query in truth}
    unknown = [qid for qid in by_qid if qid not in annotated]
    if unknown:
        raise InputError(
            f"{source}: qid {unknown[0]!r}{_and_others(unknown)} not in the annotations; "
            "predict exactly the annotated queries"
        )
    missing = [query.qid for query in truth if query.qid not in by_qid]
    if missing:
        raise InputError(
            f"{source}: qid {missing[0]!r}{_and_others(missing)} missing; "
            "predict every annotated query"
        )
    return [(by_qid[query.qid], query) for query in truth]


def _and_others(qids: list) -> str:
    return " is" if len(qids) == 1 else f" and {len(qids) - 1} more are"


def _parse_windows(record: dict, where: str) -> np.ndarray | None:
    rows = record.get("pred_relevant_windows")
    if rows is None:
        return None
    if not isinstance(rows, list | tuple | np.ndarray) or len(rows) == 0:
        raise InputError(f"{where} has no pred_relevant_windows; expected at least one")
    windows = _as_numbers(rows, "pred_relevant_windows", where)
    if windows.ndim != 2 or windows.shape[1] != 3:
        raise InputError(f"{where}: pred_relevant_windows must be [[start, end, score], ...]")
    inverted = windows[:, 1] < windows[:, 0]
    if inverted.any():
        start, end, _ = windows[inverted.argmax()]
        raise InputError(f"{where}: window [{start:g}, {end:g}] ends before it starts")
    return windows


def _parse_saliency(record: dict, where: str) -> np.ndarray | None:
    scores = record.get("pred_saliency_scores")
    if scores is None:
        return None
    saliency = _as_numbers(scores, "pred_saliency_scores", where)
    if saliency.ndim != 1 or not len(saliency):
        raise InputError(f"{where}: pred_saliency_scores must be one score per clip")
    return saliency


def _as_numbers(values: object, key: str, where: str) -> np.ndarray:
    try:
        numbers = np.asarray(values)
    except ValueError:  # rows of different length
        numbers = None
    if numbers is None or numbers.dtype.kind not in "iuf":
        raise InputError(f"{where}: {key} must be numbers in rows of one length")
    if not np.isfinite(numbers).all():
        raise InputError(f"{where}: {key} has a value that is NaN or infinite")
    return numbers.astype(np.float64)
