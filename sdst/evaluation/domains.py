"""Highlight detection per domain: TVSum top-5 mAP and YouTube Highlights mAP.

Both label every clip of a video, TVSum by 20 annotators from 1 to 5, YouTube Highlights by one, 1
where the clip is in the highlight, else 0. The field keeps them as JSON lines, one video a line:

    {"qid": "xmEERLqJ2kU", "vid": "xmEERLqJ2kU", "domain": "VT", "label": [[2, 1, ...], ...]}

The definitions are UMT's (Liu et al., CVPR 2022), which its followers took over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdst.data.annotations import parse_qid
from sdst.data.jsonl import read_json_lines
from sdst.errors import InputError
from sdst.evaluation.predictions import pair_predictions
from sdst.evaluation.retrieval import percent


@dataclass(frozen=True)
class ClipLabels:
    """What annotators said of every clip of a video.

    Args:
        qid: the query's unique id.
        domain: the topic; figures are averaged per domain first.
        labels: [L, A], by L clips and A annotators.
    """

    qid: int | str
    domain: str
    labels: np.ndarray


def read_clip_labels(path: str | Path) -> list[ClipLabels]:
    """Read and check a file of such lines; a fault is an `InputError` that names file and line."""
    found: dict[int | str, ClipLabels] = {}
    for where, record in read_json_lines(path):
        for key in ("qid", "domain", "label"):
            if key not in record:
                raise InputError(f"{where}: key {key!r} is missing; expected labels per clip")
        qid = parse_qid(record["qid"], where)
        if qid in found:
            raise InputError(f"{where}: qid {qid!r} is already used; every video needs its own")
        if not isinstance(record["domain"], str):
            raise InputError(f"{where}: domain is {record['domain']!r}, expected a name")
        found[qid] = ClipLabels(qid, record["domain"], _parse_labels(record["label"], where))
    return list(found.values())


def _parse_labels(rows: object, where: str) -> np.ndarray:
    try:
        labels = np.asarray(rows)
    except ValueError:  # rows of different length
        labels = np.empty(0)
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "iuf":
        raise InputError(f"{where}: label must be rows of numbers, annotators of every clip")
    if not np.isfinite(labels).all():
        raise InputError(f"{where}: label has a value that is NaN or infinite")
    return labels


def evaluate_tvsum(
    predictions: Sequence[dict], truth: Sequence[ClipLabels], source: str = "predictions"
) -> dict:
    """Top-5 mAP in percent: {"brief": {"mAP": ...}, "domains": {"BK": ..., ...}}.

    To an annotator those clips are positive that are rated above the lower median of the video's.
    AP is of the five most salient clips, and averaged over annotators, videos, and domains.

    Args:
        predictions: records with `pred_saliency_scores`, one for each query of `truth`.
        source: what to call the predictions in an error.
    """
    return _evaluate(predictions, truth, source, _above_median, top=5)


def evaluate_youtube(
    predictions: Sequence[dict], truth: Sequence[ClipLabels], source: str = "predictions"
) -> dict:
    """mAP over all clips in percent; positive is a label above 0. As `evaluate_tvsum` otherwise."""
    return _evaluate(predictions, truth, source, lambda labels: labels > 0, top=None)


def _evaluate(
    predictions: Sequence[dict],
    truth: Sequence[ClipLabels],
    source: str,
    positives: Callable[[np.ndarray], np.ndarray],
    top: int | None,
) -> dict:
    by_domain: dict[str, list[float]] = defaultdict(list)
    for prediction, video in pair_predictions(predictions, truth, source):
        if prediction.saliency is None:
            raise InputError(f"{source}: qid {video.qid!r} has no pred_saliency_scores")
        best = _rank(prediction.saliency, len(video.labels))[:top]
        ranked = positives(video.labels)[best]
        by_domain[video.domain].append(trapezoid_ap(ranked.T).mean())
    domains = {name: np.mean(by_domain[name]) for name in sorted(by_domain)}
    mean = np.mean(list(domains.values()))
    return {
        "brief": {"mAP": percent(mean)},
        "domains": {name: percent(share) for name, share in domains.items()},
    }


def _above_median(labels: np.ndarray) -> np.ndarray:
    """Labels [L, A] above each annotator's median, the lower one of an even number of clips."""
    median = np.sort(labels, axis=0)[(len(labels) - 1) // 2]
    return labels > median


def _rank(saliency: np.ndarray, clips: int) -> np.ndarray:
    """Clips by falling score; scores behind the video are cut, clips without one come last."""
    scores = np.full(clips, -np.inf)
    given = saliency[:clips]
    scores[: len(given)] = given
    return np.argsort(-scores, kind="stable")


def trapezoid_ap(ranked: np.ndarray) -> np.ndarray:
    """Area [...] under precision over recall, a line that begins at precision 1, recall 0.

    AP = sum over n of (recall(n) - recall(n - 1)) * (precision(n) + precision(n - 1)) / 2, where
    recall is among the clips given; 0 without a positive.

    Args:
        ranked: bool [..., N], is the clip of rank n positive.
    """
    precision = ranked.cumsum(axis=-1) / np.arange(1, ranked.shape[-1] + 1)
    before = np.concatenate((np.ones_like(precision[..., :1]), precision[..., :-1]), axis=-1)
    area = (ranked * (precision + before) / 2).sum(axis=-1)
    return area / np.maximum(ranked.sum(axis=-1), 1)
