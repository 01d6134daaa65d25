"""Deformable attention in C++ (csrc/cpu/deformable_attention.cpp), by ctypes.

16-bit inputs are computed in fp32 and the result is cast back; strided ones are made contiguous.
Against points and weights computed by PyTorch around the same sampling, one op takes 0.4 to 0.5 of
the time forward and 0.6 to 0.7 forward and backward (QVHighlights' shape, two AVX2 cores).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library

_forward = library.function("sdst_deformable_attention_forward", "pppppp" + "nnnnnn" + "i")
_backward = library.function("sdst_deformable_attention_backward", "pppppppppp" + "nnnnnn" + "i")


def unsupported_reasons(
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None = None,
) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(
        value=value, references=references, offsets=offsets, logits=logits
    )


def forward(
    value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor, lengths: Tensor | None
) -> Tensor:
    """out [B, M, H, C] of the op, in the dtype of value [B, L, H, C]."""
    # The prepared inputs must have a name: what only a pointer refers to may be freed under it.
    inputs = tuple(_prepare(x) for x in (value, references, offsets, logits))
    valid = library.prepare_lengths(lengths)
    out = inputs[0].new_empty(offsets.shape[:3] + value.shape[3:])
    _forward(
        *library.pointers(*inputs, valid, out), *_sizes(value, offsets), torch.get_num_threads()
    )
    return out.to(value.dtype)


def backward(
    grad: Tensor,
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, references (of every head, [B, M, H, 2] fp32), offsets and logits."""
    inputs = tuple(_prepare(x) for x in (grad, value, references, offsets, logits))
    valid = library.prepare_lengths(lengths)
    gradients = (
        torch.empty_like(inputs[1]),
        inputs[0].new_empty(*offsets.shape[:3], 2),
        torch.empty_like(inputs[3]),
        torch.empty_like(inputs[4]),
    )
    _backward(
        *library.pointers(*inputs, valid, *gradients),
        *_sizes(value, offsets),
        torch.get_num_threads(),
    )
    grad_value, grad_references, grad_offsets, grad_logits = gradients
    return (
        grad_value.to(value.dtype),
        grad_references,
        grad_offsets.to(offsets.dtype),
        grad_logits.to(logits.dtype),
    )


def _sizes(value: Tensor, offsets: Tensor) -> tuple[int, ...]:
    (batch, length, heads, channels), (queries, samples) = value.shape, offsets.shape[1::2]
    return batch, length, queries, heads, channels, samples


def _prepare(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()
