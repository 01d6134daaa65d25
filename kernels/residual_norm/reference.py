"""A residual in plain PyTorch: the truth that every other implementation is held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.dropout.reference import dropout as drop_elements
from sdst.kernels.dropout.reference import numbers

EPSILON = 1e-5


def residual_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropout: float,
    drop_path: float,
) -> Tensor:
    """See `sdst.kernels.residual_norm`; seed [] int64, None without any dropping."""
    dtype = result_dtype(x, branch, weight)
    precise = torch.promote_types(dtype, torch.float32)
    branch = branch.to(precise)
    if seed is not None:
        kept = numbers(len(branch), exchanged(seed)) >= int(drop_path * 2**32)
        branch = drop_elements(branch, seed, dropout)
        branch = torch.where(kept[:, None, None], branch / (1 - drop_path), 0)
    affine = weight.to(precise), bias.to(precise)
    return functional.layer_norm(x.to(precise) + branch, weight.shape, *affine, EPSILON).to(dtype)


def exchanged(seed: Tensor) -> Tensor:
    """The seed with its 32-bit halves exchanged: samples draw other numbers than elements."""
    return seed >> 32 | (seed & 0xFFFFFFFF) << 32


def result_dtype(x: Tensor, branch: Tensor, weight: Tensor) -> torch.dtype:
    """Of the result: the widest one's."""
    return torch.promote_types(torch.promote_types(x.dtype, branch.dtype), weight.dtype)


def dropping(dropout: float, drop_path: float) -> tuple[int, int, float]:
    """Both rates in 2^-32, below which an element's or a sample's number drops it, and what is
    kept is multiplied by. For kernels."""
    kept = (1 - dropout) * (1 - drop_path)
    return int(dropout * 2**32), int(drop_path * 2**32), 1 / kept
