"""Dropout in C++ (csrc/cpu/dropout.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library

_compute = library.function("sdst_dropout", "ppp" + "nn" + "fii")


def unsupported_reasons(x: Tensor) -> list[str]:
    """Why the C++ kernel cannot serve this call; empty if it can."""
    reasons = library.unsupported_reasons(x=x)
    if x.dtype not in (torch.float32, torch.bfloat16):
        reasons.append(f"x is {x.dtype}, only fp32 and bf16 are offered")
    return reasons


def dropout(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    """As the op; seed [] int64."""
    source = x.contiguous()
    out = torch.empty_like(source)
    _compute(
        *library.pointers(source, seed, out),
        *(source.numel(), int(rate * 2**32), 1 / (1 - rate)),
        *(library.TYPES[x.dtype], torch.get_num_threads()),
    )
    return out
