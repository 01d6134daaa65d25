"""Spans of time as (center, width), and how much two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def to_ends(spans: Tensor) -> Tensor:
    """(center, width) [..., 2] -> (start, end) [..., 2]."""
    center, width = spans.unbind(-1)
    return torch.stack((center - width / 2, center + width / 2), dim=-1)


def to_center_width(ends: Tensor) -> Tensor:
    """(start, end) [..., 2] -> (center, width) [..., 2]."""
    start, end = ends.unbind(-1)
    return torch.stack(((start + end) / 2, end - start), dim=-1)


def iou_with_slopes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection over union of spans, and its derivative with respect to a's center and width.

    Args:
        a, b: [..., 2], (center, width), broadcast over leading dimensions.

    Returns:
        [...], in [0, 1], 0 where both spans are empty, and [..., 2]. Where two ends meet, the
        derivative is the mean of those on either side.
    """
    sides = torch.arange(-0.5, 1.0, device=a.device, dtype=a.dtype)  # -1/2, 1/2
    a_ends, b_ends = (torch.addcmul(x[..., :1], x[..., 1:], sides) for x in (a, b))
    common = torch.minimum(a_ends, b_ends)[..., 1] - torch.maximum(a_ends, b_ends)[..., 0]
    overlap = common.clamp(min=0)
    union = (a[..., 1] + b[..., 1] - overlap).clamp(min=torch.finfo(a.dtype).tiny ** 0.5)
    value = overlap / union
    # The overlap grows with a's end where b's is later, and with a's start where b's is earlier.
    start, end = (b_ends - a_ends).sign().unbind(-1)
    center, width = torch.lerp(start, end, 0.5), 0.5 + (end - start) / 4
    by_overlap = (1 + value) / union * (common >= 0)
    return value, torch.stack((center * by_overlap, width * by_overlap - value / union), -1)


def distance_outside(offsets: Tensor, references: Tensor) -> Tensor:
    """How far sampling points are from the video, 0 inside of it, in units of it.

    Args:
        offsets: [..., M, P], points from the centres of the references, in half-widths.
        references: [..., M, 2], (center, width).

    Returns:
        [..., M, P].
    """
    center, width = references[..., None, :].unbind(-1)
    points = torch.addcmul(center, offsets.float(), width, value=0.5)
    return (points - points.clamp(0.0, 1.0)).abs()


def mean_outside(offsets: Tensor, references: Tensor) -> Tensor:
    """[], the mean of `distance_outside`, with its gradient written down."""
    return _MeanOutside.apply(offsets, references)


class _MeanOutside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, offsets: Tensor, references: Tensor) -> Tensor:
        center, width = references[..., None, :].unbind(-1)
        points = torch.addcmul(center, offsets.float(), width, value=0.5)
        outside = points - points.clamp(0.0, 1.0)
        ctx.save_for_backward(outside, offsets, width)
        return outside.abs().mean()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor, Tensor]:
        [grad], [outside, offsets, width] = grads, ctx.saved_tensors
        by_point = outside.sign() * (grad / outside.numel())
        by_width = (by_point * offsets).sum(-1) / 2
        by_references = torch.stack((by_point.sum(-1), by_width), -1)
        return (by_point * (width / 2)).to(offsets.dtype), by_references
