"""Deformable attention in plain PyTorch: the truth that every other implementation is held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def deformable_attention(
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """See `sdst.kernels.deformable_attention`. Computes in fp32, or fp64 for fp64 values."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    center, width = references.to(dtype)[:, :, None, None].unbind(-1)
    points = center + offsets.to(dtype) * (width / 2)
    weights = logits.to(dtype).softmax(-1)
    return _sample(value.to(dtype), points, weights, lengths).to(value.dtype)


def _sample(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    """sum_s A_s y(p_s): value [B, L, H, C], points p and weights A [B, M, H, S] -> [B, M, H, C]."""
    (batch, length, heads, channels), (queries, samples) = value.shape, points.shape[1::2]
    if lengths is None:
        lengths = torch.full((batch,), length, device=value.device)
    if length == 0:  # a clip that is never inside, for the taps to point to
        value = functional.pad(value, (0, 0, 0, 0, 0, 1))
    lengths = lengths.clamp(0, length).view(batch, 1, 1, 1)

    # x = p L - 0.5 is the position in clips; beyond [-1, L] both taps are outside and give 0.
    x = (points * lengths - 0.5).clamp(min=-1.0).minimum(lengths.to(points.dtype))
    left = x.detach().floor()
    fraction = x - left

    def tap(index: Tensor) -> Tensor:
        """Values [B, M, H, S, C] at clip `index` [B, M, H, S], 0 outside of the valid clips."""
        inside = (index >= 0) & (index < lengths)
        rows = torch.where(inside, index, 0).long()
        rows = rows.permute(0, 1, 3, 2).reshape(batch, queries * samples, heads, 1)
        taken = value.gather(1, rows.expand(-1, -1, -1, channels))
        taken = taken.view(batch, queries, samples, heads, channels).transpose(2, 3)
        return taken.masked_fill(~inside[..., None], 0)

    # y = (1 - f) v_i + f v_{i+1};  out = sum_s A_s y_s
    sampled = torch.lerp(tap(left), tap(left + 1), fraction[..., None])
    return (weights[..., None] * sampled).sum(3)
