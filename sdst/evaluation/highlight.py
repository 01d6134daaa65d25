"""Highlight detection (HD): is the most salient clip good, and are the good clips ranked first.

The definitions are the official QVHighlights evaluator's. A clip is positive for a rater whose
rating reaches the level. All queries are computed at once in padded arrays: Q queries, R raters,
L clips.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdst.evaluation.retrieval import percent

LEVELS = {"Fair": 2, "Good": 3, "VeryGood": 4}


def evaluate_highlights(
    saliency: Sequence[np.ndarray], ratings: Sequence[np.ndarray]
) -> dict[str, dict[str, float]]:
    """HL-mAP and HL-Hit1, in percent, per level.

    Args:
        saliency: per query the predicted score of every clip, [any length].
        ratings: per query [L, R], 0 to 4.

    Returns {"HL-min-Fair" | "HL-min-Good" | "HL-min-VeryGood": {"HL-mAP": ..., "HL-Hit1": ...}}.
    """
    num_clips = np.array([len(r) for r in ratings])
    scores = _pad_scores(saliency, num_clips)
    padded = _pad_ratings(ratings)
    # The first most salient clip, of all clips given: behind the video's end it is a miss.
    first = np.array([s.argmax() for s in saliency])
    inside = first < num_clips
    report = {}
    for name, level in LEVELS.items():
        positive = padded >= level
        hit = positive[np.arange(len(first)), :, np.where(inside, first, 0)].any(axis=1) & inside
        mean_ap = average_precision(scores[:, None], positive).mean()
        report[f"HL-min-{name}"] = {"HL-mAP": percent(mean_ap), "HL-Hit1": percent(hit.mean())}
    return report


def count_clips(duration: float, clip_length: float) -> int:
    """Whole clips in `duration` seconds, at least one; 2.1 s are three clips of 0.7 s."""
    return max(1, int(duration / clip_length + 1e-6))  # 2.1 / 0.7 rounds to just below 3


def average_precision(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """AP of ranking clips by score; 0 without a positive clip. [...]

    AP = mean over the distinct recall levels r > 0 of the highest precision at recall >= r.
    Clips of equal score enter together, so a recall level may hold several positives.

    Args:
        scores: [..., L], -inf for padding; broadcast to `positive`.
        positive: bool [..., L], False for padding.
    """
    scores = np.broadcast_to(scores, positive.shape)
    order = np.argsort(-scores, axis=-1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=-1)
    found = np.take_along_axis(positive, order, axis=-1).cumsum(axis=-1)
    precision = found / np.arange(1, found.shape[-1] + 1)

    # A ranking can be cut only where the score drops.
    cut = np.isfinite(scores)
    cut[..., :-1] &= scores[..., :-1] != scores[..., 1:]
    precision = np.where(cut, precision, 0)
    interpolated = np.maximum.accumulate(precision[..., ::-1], axis=-1)[..., ::-1]

    found_at_cuts = np.maximum.accumulate(np.where(cut, found, 0), axis=-1)
    recall_step = np.diff(found_at_cuts, axis=-1, prepend=0) > 0
    steps = recall_step.sum(axis=-1)
    return (interpolated * recall_step).sum(axis=-1) / np.maximum(steps, 1)


def _pad_scores(saliency: Sequence[np.ndarray], num_clips: np.ndarray) -> np.ndarray:
    """[Q, L]: too many scores are cut, missing ones are 0, clips behind the video are -inf."""
    padded = np.where(np.arange(num_clips.max()) < num_clips[:, None], 0.0, -np.inf)
    for target, scores, length in zip(padded, saliency, num_clips, strict=True):
        given = scores[:length]
        target[: len(given)] = given
    return padded


def _pad_ratings(ratings: Sequence[np.ndarray]) -> np.ndarray:
    """[Q, R, L], 0 behind the video."""
    padded = np.zeros((len(ratings), ratings[0].shape[1], max(map(len, ratings))))
    for target, clip_ratings in zip(padded, ratings, strict=True):
        target[:, : len(clip_ratings)] = clip_ratings.T
    return padded
