"""Highlight detection per domain: TVSum top-5 mAP and YouTube Highlights mAP.

Both label every clip of a video; `sdst.data.annotations` says how.

The definitions are UMT's (Liu et al., CVPR 2022), which its followers took over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.predictions import pair_predictions
from sdst.evaluation.retrieval import percent


def evaluate_tvsum(
    predictions: Sequence[dict], truth: Sequence[Annotation], source: str = "predictions"
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
    predictions: Sequence[dict], truth: Sequence[Annotation], source: str = "predictions"
) -> dict:
    """mAP over all clips in percent; positive is a label above 0. As `evaluate_tvsum` otherwise."""
    return _evaluate(predictions, truth, source, lambda labels: labels > 0, top=None)


def _evaluate(
    predictions: Sequence[dict],
    truth: Sequence[Annotation],
    source: str,
    positives: Callable[[np.ndarray], np.ndarray],
    top: int | None,
) -> dict:
    by_domain: dict[str, list[float]] = defaultdict(list)
    for prediction, video in pair_predictions(predictions, truth, source):
        if video.labels is None:
            raise InputError(f"annotations: qid {video.qid!r} has no label; expected one per clip")
        if prediction.saliency is None:
            raise InputError(f"{source}: qid {video.qid!r} has no pred_saliency_scores")
        labels = np.asarray(video.labels)
        best = _rank(prediction.saliency, len(labels))[:top]
        ranked = positives(labels)[best]
        by_domain[video.domain or "all"].append(trapezoid_ap(ranked.T).mean())
    domains = {name: float(np.mean(by_domain[name])) for name in sorted(by_domain)}
    mean = float(np.mean(list(domains.values())))
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
