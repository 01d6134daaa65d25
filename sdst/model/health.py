"""Health of the sparse stream: where the moment queries look, and whether they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sdst.model.spans import distance_outside
from sdst.model.tuner import Outputs

SAME_WINDOWS = 0.02  # spread below which, with one slot in use, all answers are alike
ONE_SLOT = 1.5
LOST_POINTS = 0.5  # share outside the video from which few samples still have a gradient


@dataclass
class SparseHealth:
    """Figures of the last step over a batch, [] each.

    Attributes:
        offset: mean distance of a sampling point from its reference's centre, in half-widths; about
            1 in a healthy run.
        outside: share of the sampling points that are outside the video, where there is nothing.
        spread: deviation over the batch of a query's centre, in units of the video, averaged over
            the queries.
        slots: queries that are the best of some sample, as the exponential of the entropy of which
            one is: 1 where it is always the same, at most M.
    """

    offset: Tensor
    outside: Tensor
    spread: Tensor
    slots: Tensor


HEALTH = tuple(figure.name for figure in fields(SparseHealth))


@torch.no_grad()
def sparse_health(outputs: Outputs) -> SparseHealth:
    """The figures of what a model in training gave."""
    centers = outputs.spans[-1, ..., 0].float()
    best = outputs.scores[-1].argmax(-1)
    queries = torch.arange(centers.shape[1], device=best.device)
    share = (best[:, None] == queries).float().mean(0)
    slots = (-torch.special.xlogy(share, share).sum()).exp()
    nowhere = centers.new_zeros(())
    offset = outside = nowhere
    if outputs.offsets is not None and outputs.references is not None:
        offset = outputs.offsets[-1].float().abs().mean()
        outside = distance_outside(outputs.offsets[-1], outputs.references[-1])
        outside = (outside > 0).float().mean()
    return SparseHealth(offset, outside, centers.std(0, correction=0).mean(), slots)


def collapses(figures: Mapping[str, float]) -> set[str]:
    """A line for each way in which the sparse stream fails, by the means of `SparseHealth`."""
    found = set()
    if figures["spread"] < SAME_WINDOWS and figures["slots"] < ONE_SLOT:
        found.add(
            "the moment queries answer every sentence with the same window so far; if that stays, "
            "take model.reads saliency and a lower train.offsets_lr, or less dropout"
        )
    if figures["outside"] > LOST_POINTS:
        found.add(
            f"more than {LOST_POINTS:.0%} of the moment queries' sampling points are outside the "
            "video, where nothing is learned; lower train.offsets_lr or raise loss.outside"
        )
    return found
