"""Dense attention in C++ (csrc/cpu/dense_attention.cpp), by ctypes.

16-bit inputs are computed in fp32 and the result is cast back. Rows, heads and videos may have any
stride, so the halves of one matrix multiply are read in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library

_forward = library.function("sdst_dense_attention_forward", "pnnn" * 3 + "ppp" + "nnnnn" + "fi")
_backward = library.function("sdst_dense_attention_backward", "pnnn" * 4 + "ppppp" + "nnnnn" + "fi")


def unsupported_reasons(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    dropout_p: float,
    window: int | None = None,
    global_clips: int = 0,
) -> list[str]:
    """Why the C++ kernel cannot serve this call; empty if it can."""
    reasons = library.unsupported_reasons(q=q, k=k, v=v)
    if dropout_p > 0:
        reasons.append(f"dropout_p is {dropout_p}, only 0 is offered")
    if window is not None:
        reasons.append(f"window is {window}, only attention to all clips is offered")
    return reasons


def forward(
    q: Tensor, k: Tensor, v: Tensor, key_lengths: Tensor | None, query_lengths: Tensor | None
) -> Tensor:
    """out [B, M, H, C] of the op, in the dtype of q [B, M, H, C]; k, v [B, L, H, C]."""
    # The prepared inputs must have a name: what only a pointer refers to may be freed under it.
    inputs = [_prepare(x) for x in (q, k, v)]
    lengths = [library.prepare_lengths(x) for x in (query_lengths, key_lengths)]
    out = inputs[0].new_empty(q.shape)
    _forward(*_places(*inputs), *library.pointers(*lengths, out), *_sizes(q, k))
    return out.to(q.dtype)


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_lengths: Tensor | None,
    query_lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    inputs = [_prepare(x) for x in (grad, q, k, v)]
    lengths = [library.prepare_lengths(x) for x in (query_lengths, key_lengths)]
    gradients = [x.new_empty(x.shape) for x in inputs[1:]]
    _backward(*_places(*inputs), *library.pointers(*lengths, *gradients), *_sizes(q, k))
    grad_q, grad_k, grad_v = (x.to(y.dtype) for x, y in zip(gradients, (q, k, v), strict=True))
    return grad_q, grad_k, grad_v


def _prepare(x: Tensor) -> Tensor:
    x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def _places(*inputs: Tensor) -> list[int]:
    """Of each: where it lies, and how far apart videos, rows and heads are."""
    return [number for x in inputs for number in (x.data_ptr(), *x.stride()[:3])]


def _sizes(q: Tensor, k: Tensor) -> tuple[int | float, ...]:
    batch, queries, heads, channels = q.shape
    scale = channels**-0.5
    return batch, heads, queries, k.shape[1], channels, scale, torch.get_num_threads()
