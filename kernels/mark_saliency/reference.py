"""Marking by saliency in plain PyTorch: the truth that every other implementation is held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.pyramid import valid_lengths


def mark_saliency(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None
) -> Tensor:
    """See `sdst.kernels.mark_saliency`."""
    dtype = torch.promote_types(dense.dtype, torch.float32)
    with torch.no_grad(), torch.autocast(dense.device.type, enabled=False):
        clips = functional.normalize(dense.to(dtype), dim=-1)
        scores = torch.einsum("blf,bf->bl", clips, functional.normalize(sentence.to(dtype), dim=-1))
        z = standardised(scores, valid_lengths(dense, lengths))
    return (dense + z[..., None] * direction).to(dense.dtype)


def standardised(values: Tensor, lengths: Tensor) -> Tensor:
    """values [B, L] with mean 0 and deviation 1 over the valid part of each row, 0 beyond it."""
    real = torch.arange(values.shape[1], device=values.device) < lengths[:, None]
    count = lengths.clamp(min=1)[:, None]
    mean = torch.where(real, values, 0.0).sum(1, keepdim=True) / count
    centred = torch.where(real, values - mean, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * (variance + 1e-6).rsqrt()
