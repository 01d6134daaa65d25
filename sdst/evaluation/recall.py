"""Recall as each dataset's own evaluator counts it, where it differs from QVHighlights'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdst.evaluation.retrieval import iou_over_hull, pad_rows, percent

BESIDE_DIDEMO = 22  # a rank behind the 21 segments that a video of DiDeMo has


@dataclass(frozen=True)
class Recall:
    """R k@t: the share of queries with a hit among their first k windows.

    Args:
        top: k of every figure.
        thresholds: t of every figure.
        strict: a hit's IoU is above t; else it may be t.
        single: windows and moments are rounded to fp32 first.
    """

    top: tuple[int, ...]
    thresholds: tuple[float, ...]
    strict: bool = False
    single: bool = False

    def __call__(
        self, windows: Sequence[np.ndarray], moments: Sequence[np.ndarray]
    ) -> dict[str, float]:
        """Figures in percent; arguments as in `evaluate_retrieval`."""
        found, truth = pad_rows(windows, top=max(self.top)), pad_rows(moments)
        if self.single:
            found, truth = found.astype(np.float32), truth.astype(np.float32)
        iou = iou_over_hull(found, truth)  # [Q, N, G]
        report = {}
        for t in self.thresholds:
            best = iou.max(axis=2)
            hit = np.asarray(best > t if self.strict else best >= t)
            report |= {f"R{k}@{t}": percent(hit[:, :k].any(axis=1).mean()) for k in self.top}
        return report


def evaluate_overlap_with_moment(
    windows: Sequence[np.ndarray], moments: Sequence[np.ndarray]
) -> dict[str, float]:
    """NExT-GQA's IoP, the share of the first window that is in a moment: mean, and above 0.3, 0.5.

    Of several moments the best counts. Source: get_tIoU and eval_ground of NExT-GQA's repository,
    code/TempGQA/eval_ground.py. Acc@GQA needs answers, which nothing here gives.
    """
    first, truth = pad_rows(windows, top=1)[:, 0], pad_rows(moments)
    inside = np.minimum(first[:, None, 1], truth[..., 1]) - np.maximum(
        first[:, None, 0], truth[..., 0]
    )
    length = (first[:, 1] - first[:, 0])[:, None]
    share = np.divide(inside, length, out=np.zeros_like(inside), where=length > 0)
    best = np.maximum(share.max(axis=1), 0)
    return {
        "mIoP": percent(best.mean()),
        **{f"IoP@{t}": percent((best >= t).mean()) for t in (0.3, 0.5)},
    }


def evaluate_didemo(
    windows: Sequence[np.ndarray], moments: Sequence[np.ndarray]
) -> dict[str, float]:
    """DiDeMo's Rank@1, Rank@5 and mIoU, over the three annotators who agree best.

    A window counts as the whole segments of 5 s next to it; of windows that are the same segments
    the first counts. Source: eval_predictions of LisaAnne/LocalizingMoments, utils/eval.py, which
    ranks all 21 segments; one that no window is next to is behind them.
    """
    ranks, overlaps = [], []
    for of_query, chosen in zip(windows, moments, strict=True):
        found = list(dict.fromkeys(map(tuple, _as_segments(of_query[:, :2]))))
        truth = [tuple(segment) for segment in _as_segments(chosen[:, :2])]
        rank = [found.index(x) + 1 if x in found else BESIDE_DIDEMO for x in truth]
        ranks.append(np.mean(sorted(rank)[:3]))
        first = np.array(found[:1], float)[None]
        overlap = iou_over_hull(first, np.array(truth, float)[None])[0, 0]
        overlaps.append(np.mean(np.sort(overlap)[-3:]))
    return {
        **{f"Rank@{k}": percent((np.array(ranks) <= k).mean()) for k in (1, 5)},
        "mIoU": percent(float(np.mean(overlaps))),
    }


def _as_segments(windows: np.ndarray) -> np.ndarray:
    """First and last boundary [N, 2] of the segments next to windows, one segment at least."""
    bounds = np.floor(windows / 5.0 + 0.5).astype(int)
    bounds[:, 1] = np.maximum(bounds[:, 1], bounds[:, 0] + 1)
    return bounds
