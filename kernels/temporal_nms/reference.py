"""Non-maximum suppression in plain PyTorch: the truth for every other implementation."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sdst.kernels.exporting import is_exporting

METHODS = ("hard", "linear", "gaussian")  # in the order of Method in csrc/include/suppression.h


def temporal_nms(
    spans: Tensor,
    scores: Tensor,
    counts: Tensor | None,
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
) -> tuple[Tensor, Tensor]:
    """See `sdst.kernels.temporal_nms`. All videos advance together, a span each per step."""
    size = scores.shape[1]
    dtype = torch.promote_types(scores.dtype, torch.float32)
    left, spans = scores.to(dtype), spans.to(dtype)
    if counts is not None:
        left = left.masked_fill(
            torch.arange(size, device=left.device) >= counts[:, None], -math.inf
        )
    order = torch.full_like(scores, -1, dtype=torch.int64)
    kept = torch.zeros_like(left)
    going = torch.ones_like(order[:, :1], dtype=torch.bool)
    for step in range(size):
        left = left.masked_fill(left.isnan(), -math.inf)
        best, at = left.max(1, keepdim=True)  # of equals the first
        going = going & (best > min_score)
        if not is_exporting() and not going.any():
            break
        order[:, step : step + 1] = at.where(going, -1)
        kept[:, step : step + 1] = best.where(going, 0)
        taken = spans.gather(1, at[..., None].expand(-1, -1, 2))
        left = decay(left, iou(spans, taken), method, threshold, sigma)
        left = left.scatter(1, at, -math.inf)
    return order, kept.to(scores.dtype)


def decay(scores: Tensor, o: Tensor, method: str, threshold: float, sigma: float) -> Tensor:
    """Scores after a span of IoU `o` was taken."""
    if method == "gaussian":
        return scores * (-o * o / sigma).exp()
    return scores.where(o <= threshold, -math.inf if method == "hard" else scores * (1 - o))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of spans [..., 2], broadcast; 0 unless both overlap."""
    (start, end), (other_start, other_end) = a.unbind(-1), b.unbind(-1)
    inside = end.minimum(other_end) - start.maximum(other_start)
    joint = (end - start) + (other_end - other_start) - inside
    return (inside / joint).where((inside > 0) & (joint > 0), 0)
