"""The C++ implementation in csrc/cpu/deformable_attention.cpp, called through ctypes."""

from __future__ import annotations

import ctypes
from functools import cache

import torch
from torch import Tensor

from sdst.kernels import library


def unsupported_reasons(
    value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> list[str]:
    """Why this call cannot be served natively; empty if it can."""
    reasons = []
    if missing := library.missing_reason("cpu"):
        reasons.append(missing)
    if value.device.type != "cpu":
        reasons.append(f"value is on {value.device}, expected the CPU")
    if not value.dtype == points.dtype == weights.dtype == torch.float32:
        found = ", ".join(str(t.dtype) for t in (value, points, weights))
        reasons.append(f"value, points, weights are {found}, expected torch.float32")
    return reasons


def forward(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    """Contiguous fp32 tensors on the CPU -> [B, M, H, C]."""
    out = value.new_empty(*points.shape[:3], value.shape[3])
    _call(
        "sdst_deformable_attention_forward",
        (value, points, weights, lengths, out),
        (value, points),
    )
    return out


def backward(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, points and weights."""
    grads = torch.empty_like(value), torch.empty_like(points), torch.empty_like(weights)
    _call(
        "sdst_deformable_attention_backward",
        (grad, value, points, weights, lengths, *grads),
        (value, points),
    )
    return grads


def _call(name: str, pointers: tuple[Tensor | None, ...], shapes: tuple[Tensor, Tensor]) -> None:
    value, points = shapes
    batch, length, heads, channels = value.shape
    addresses = (None if t is None else t.data_ptr() for t in pointers)
    sizes = (batch, length, points.shape[1], heads, channels, points.shape[3])
    _function(name, len(pointers))(*addresses, *sizes, torch.get_num_threads())


@cache
def _function(name: str, pointers: int) -> ctypes._CFuncPtr:
    function = getattr(library.load("cpu"), name)
    function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * 6 + [ctypes.c_int32]
    function.restype = None
    return function
