"""Deformable attention in C++ (csrc/cpu/deformable_attention.cpp), by ctypes.

16-bit inputs are computed in fp32 and the result is cast back; strided ones are made contiguous.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library


def unsupported_reasons(
    value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None = None
) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(value=value, points=points, weights=weights)


def forward(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    """out [B, M, H, C] of the op, in the dtype of value [B, L, H, C]."""
    sizes = _sizes(value, points)
    # The prepared inputs must have names: what only a pointer refers to may be freed under it.
    values, where, scores = _prepare(value), _prepare(points), _prepare(weights)
    out = values.new_empty(points.shape[:3] + value.shape[3:])
    valid = library.prepare_lengths(lengths)
    library.load("cpu").sdst_deformable_attention_forward(
        *library.pointers(values, where, scores, valid, out), *sizes, torch.get_num_threads()
    )
    return out.to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, points and weights, each in its dtype; grad is that of out."""
    sizes = _sizes(value, points)
    inputs = tuple(_prepare(x) for x in (grad, value, points, weights))
    gradients = tuple(torch.empty_like(x) for x in inputs[1:])
    valid = library.prepare_lengths(lengths)
    library.load("cpu").sdst_deformable_attention_backward(
        *library.pointers(*inputs, valid, *gradients), *sizes, torch.get_num_threads()
    )
    given = (value, points, weights)
    return tuple(x.to(like.dtype) for x, like in zip(gradients, given, strict=True))


def _sizes(value: Tensor, points: Tensor) -> tuple[int, ...]:
    (batch, length, heads, channels), (queries, samples) = value.shape, points.shape[1::2]
    return batch, length, queries, heads, channels, samples


def _prepare(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()
