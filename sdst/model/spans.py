"""Spans of time as (center, width), and how much two of them overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def to_ends(spans: Tensor) -> Tensor:
    """(center, width) [..., 2] -> (start, end) [..., 2]."""
    center, width = spans.unbind(-1)
    return torch.stack((center - width / 2, center + width / 2), dim=-1)


def to_center_width(ends: Tensor) -> Tensor:
    """(start, end) [..., 2] -> (center, width) [..., 2]."""
    start, end = ends.unbind(-1)
    return torch.stack(((start + end) / 2, end - start), dim=-1)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of (center, width) spans, broadcast over leading dimensions.

    Args:
        a, b: [..., 2].

    Returns:
        [...], in [0, 1]; 0 where both spans are empty.
    """
    (a_start, a_end), (b_start, b_end) = to_ends(a).unbind(-1), to_ends(b).unbind(-1)
    overlap = (torch.minimum(a_end, b_end) - torch.maximum(a_start, b_start)).clamp(min=0)
    union = (a_end - a_start) + (b_end - b_start) - overlap
    return overlap / union.clamp(min=torch.finfo(union.dtype).tiny ** 0.5)


def distance_outside(offsets: Tensor, references: Tensor) -> Tensor:
    """How far sampling points are from the video, 0 inside of it, in units of it.

    Args:
        offsets: [..., M, P], points from the centres of the references, in half-widths.
        references: [..., M, 2], (center, width).

    Returns:
        [..., M, P].
    """
    center, width = references[..., None, :].unbind(-1)
    points = center + offsets.float() * width / 2
    return (-points).clamp(min=0) + (points - 1).clamp(min=0)
