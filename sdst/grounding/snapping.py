"""Moments whose ends follow the saliency curve."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.mark_saliency.reference import standardised

STEPS = 8  # positions tried on either side of a start and of an end


def snap(ends: Tensor, saliency: Tensor, lengths: Tensor, reach: float) -> Tensor:
    """Move starts and ends to where the clips inside stand out most from those outside.

    All pairs of 2 * STEPS + 1 starts and ends, whole clips apart, are compared by the statistic
    that decides between one mean and two,

        t = sum_inside(z) / sqrt(W (1 - W / L)),

    with z the saliency standardised over the video's L clips and W the clips inside: under normal
    noise its maximum is the most likely place of a single moment (Levin and Kline, 1985). The
    moment queries find which moment; a curve with a value per clip knows better where it ends.

    Args:
        ends: [B, M, 2], start and end in clips.
        saliency: [B, L].
        lengths: [B], valid clips.
        reach: how far a start or an end may move, in widths of its moment.

    Returns:
        [B, M, 2], inside the video; a moment that nothing nearby beats, or whose reach is less
        than half a clip, stays.
    """
    total = functional.pad(standardised(saliency.float(), lengths).cumsum(1), (1, 0))
    real = lengths.to(ends.dtype)[:, None, None]
    width = ends[..., 1:] - ends[..., :1]
    shift = (reach * width * torch.linspace(-1, 1, 2 * STEPS + 1, device=ends.device)).round()
    start, end = (ends[..., :1] + shift).clamp(min=0), torch.minimum(ends[..., 1:] + shift, real)
    inside = _at(total, end)[..., None, :] - _at(total, start)[..., :, None]
    width = end[..., None, :] - start[..., :, None]
    spread = (width * (1 - width / real[..., None])).clamp(min=0.5).sqrt()
    t = (inside / spread).masked_fill(width <= 0, -torch.inf).flatten(2)
    best = t.argmax(-1, keepdim=True)
    first, last = best // shift.shape[-1], best % shift.shape[-1]
    snapped = torch.cat((start.gather(2, first), end.gather(2, last)), -1)
    here = t[..., t.shape[-1] // 2, None]  # shifted by nothing
    return torch.where(t.gather(2, best) > here, snapped, ends)


def _at(total: Tensor, position: Tensor) -> Tensor:
    """Running sums [B, L + 1] at fractional positions [B, M, S] -> [B, M, S]."""
    below = position.long().clamp(0, total.shape[1] - 2)
    values = total.gather(1, below.flatten(1)).view_as(position)
    above = total.gather(1, (below + 1).flatten(1)).view_as(position)
    return torch.lerp(values, above, position - below)
