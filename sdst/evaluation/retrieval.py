"""Moment retrieval (MR): recall of the first windows, and detection AP, over temporal IoU.

The definitions are the official QVHighlights evaluator's. All queries are computed at once in
padded arrays: Q queries, N windows, G moments (ground truth), T thresholds. A row of padding is
the window [0, 0], whose IoU with anything is 0, below every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RECALL_THRESHOLDS = (0.3, 0.5, 0.7)
# Moments by length in seconds, (above, up to]; they filter the ground truth, never the predictions.
LENGTH_RANGES = {"full": (0, np.inf), "long": (30, 150), "middle": (10, 30), "short": (0, 10)}
MAX_WINDOWS = 10  # that the mAP looks at


def evaluate_retrieval(
    windows: Sequence[np.ndarray], moments: Sequence[np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """MR-mAP and MR-R1, in percent, by length of the moments.

    Args:
        windows: per query [N, 3] of (start s, end s, score), rank 1 first.
        moments: per query [G, 2] of (start s, end s).

    Returns {"full" | "long" | "middle" | "short": {"MR-mAP": {"0.5": ..., "average": ...},
    "MR-R1": {"0.5": ...}}}, without the ranges in which no moment falls.
    """
    truth = pad_rows(moments)
    length = truth[..., 1] - truth[..., 0]
    iou = temporal_iou(_rank_by_score(windows)[:, :, None], truth[:, None])
    first = iou_over_hull(pad_rows(windows, top=1), truth)[:, 0]
    report = {}
    for name, (above, up_to) in LENGTH_RANGES.items():
        in_range = (length > above) & (length <= up_to)
        kept = in_range.any(axis=1)
        if kept.any():
            report[name] = _evaluate_range(iou[kept], first[kept], in_range[kept])
    return report


def _evaluate_range(iou: np.ndarray, first: np.ndarray, in_range: np.ndarray) -> dict:
    """MR-mAP and MR-R1 on the moments `in_range` [Q, G], at least one a query.

    Args:
        iou: of windows ranked by score, [Q, N, G].
        first: of the first window given, [Q, G].
    """
    hit = match_greedily(np.where(in_range[:, None], iou, 0), IOU_THRESHOLDS)
    precision = average_precision(hit, in_range.sum(axis=1)).mean(axis=0)
    recall = np.where(in_range, first, 0).max(axis=1)[:, None] >= np.array(IOU_THRESHOLDS)
    return {
        "MR-mAP": _by_threshold(precision) | {"average": percent(precision.mean())},
        "MR-R1": _by_threshold(recall.mean(axis=0)),
    }


def _by_threshold(shares: np.ndarray) -> dict[str, float]:
    return {str(t): percent(share) for t, share in zip(IOU_THRESHOLDS, shares, strict=True)}


def evaluate_recall(
    windows: Sequence[np.ndarray], moments: Sequence[np.ndarray]
) -> dict[str, float]:
    """R1@t, R5@t: share of queries with a hit among the first 1 or 5 windows; mIoU of the first.

    In percent; arguments as in `evaluate_retrieval`.
    """
    best = iou_over_hull(pad_rows(windows, top=5), pad_rows(moments)).max(axis=2)
    report = {}
    for top in (1, 5):
        reached = best[:, :top].max(axis=1)
        report |= {f"R{top}@{t}": percent((reached >= t).mean()) for t in RECALL_THRESHOLDS}
    return report | {"mIoU": percent(best[:, 0].mean())}


def iou_over_hull(windows: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """IoU [Q, N, G] of every window [Q, N, 2 or more] with every moment [Q, G, 2].

    IoU = intersection / hull: for windows that meet the hull is the union, for others the
    intersection is 0. It equals `temporal_iou` but for the last bit, which decides where the IoU
    is exactly a threshold: the official evaluator uses the hull for recall, the union for AP.
    """
    a, b = windows[:, :, None], moments[:, None]
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    return _ratio(_intersection(a, b), hull)


def temporal_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [...] of windows a [..., 2] and b [..., 2]; 0 for two empty windows."""
    intersection = _intersection(a, b)
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - intersection
    return _ratio(intersection, union)


def _intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    return np.maximum(overlap, 0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)


def _rank_by_score(windows: Sequence[np.ndarray]) -> np.ndarray:
    """The first `MAX_WINDOWS` in the order given, by falling score: [Q, N, 2], padding last.

    A query with more moments than that cannot reach an AP of 1.
    """
    padded = pad_rows(windows, top=MAX_WINDOWS)
    given = np.minimum([len(w) for w in windows], MAX_WINDOWS)
    scores = np.where(np.arange(padded.shape[1]) < given[:, None], padded[..., 2], -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(padded[..., :2], order[..., None], axis=1)


def match_greedily(iou: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Which window finds a moment that no window before it has taken: bool [Q, T, N].

    Window by window, each takes the free moment that it overlaps best, if IoU >= threshold.

    Args:
        iou: [Q, N, G], windows in rank order.
        thresholds: T values above 0.
    """
    iou = iou[:, :, ::-1]  # of moments that overlap equally the last is taken, as officially
    num_queries, num_windows, num_moments = iou.shape
    limits = np.asarray(thresholds)[:, None]
    hit = np.zeros((num_queries, len(limits), num_windows), dtype=bool)
    free = np.ones((num_queries, len(limits), num_moments), dtype=bool)
    for n in range(num_windows):
        candidates = np.where(free, iou[:, n, None, :], 0)  # [Q, T, G]
        best = candidates.argmax(axis=2)[..., None]
        found = np.take_along_axis(candidates, best, axis=2) >= limits
        still_free = np.take_along_axis(free, best, axis=2) & ~found
        np.put_along_axis(free, best, still_free, axis=2)
        hit[:, :, n] = found[..., 0]
    return hit


def average_precision(hit: np.ndarray, num_moments: np.ndarray) -> np.ndarray:
    """AP = 1/G * sum over hits n of max over n' >= n of precision(n'): [Q, T].

    precision(n) is the share of hits among the first n windows; every hit is a recall step of 1/G.

    Args:
        hit: bool [Q, T, N].
        num_moments: G of every query, [Q].
    """
    precision = hit.cumsum(axis=2) / np.arange(1, hit.shape[2] + 1)
    interpolated = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    return (interpolated * hit).sum(axis=2) / num_moments[:, None]


def pad_rows(rows: Sequence[np.ndarray], top: int | None = None) -> np.ndarray:
    """Stack the first `top` rows of Q arrays [N_q, C] into [Q, max N_q, C]; missing rows are 0."""
    rows = [row[:top] for row in rows]
    lengths = np.array([len(row) for row in rows])
    padded = np.zeros((len(rows), lengths.max(), rows[0].shape[1]))
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(rows)
    return padded


def percent(share: float) -> float:
    """A share as percent with 2 decimals, as officially reported."""
    return float(f"{100 * share:.2f}")
