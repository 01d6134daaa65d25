"""Dropout by hashing in plain PyTorch: the truth that the native implementation is held to."""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def dropout(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """See `sdst.kernels.dropout`; seed [] int64."""
    kept = numbers(x.numel(), seed).view(x.shape) >= int(rate * 2**32)
    return torch.where(kept, x / (1 - rate), 0)


def numbers(count: int, seed: Tensor) -> Tensor:
    """A number in [0, 2**32) for each of `count` places, [count] int64.

    The mixing is `lowbias32` (Chris Wellons, "Prospecting for Hash Functions", 2018), seeded before
    and between its multiplications.
    """
    place = torch.arange(count, device=seed.device)
    x = (place * 0x9E3779B1 + (seed & _WORD)) & _WORD
    x = (x ^ x >> 16) * 0x7FEB352D & _WORD
    x = (x ^ seed >> 32) & _WORD
    x = (x ^ x >> 15) * 0x846CA68B & _WORD
    return x ^ x >> 16
