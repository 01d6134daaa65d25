"""Token pooling in C++ (csrc/cpu/pool_tokens.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library

_forward = library.function("sdst_pool_tokens_forward", "pppppp" + "nnnnnn" + "ii")
_backward = library.function("sdst_pool_tokens_backward", "ppppppp" + "nnnnnn" + "ii")


def unsupported_reasons(tokens: Tensor, u: Tensor, *rest: object) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(tokens=tokens, u=u)


def forward(
    tokens: Tensor, u: Tensor, kept: int, lengths: Tensor | None, scales: Tensor | None
) -> Tensor:
    """[B, L, D] fp32, see the op."""
    batch, length, per_clip, width = tokens.shape
    store, apart = library.prepare_samples(tokens)
    direction = u.float().contiguous()
    valid, factors = library.prepare_lengths(lengths), library.prepare_scales(scales)
    out = direction.new_empty(batch, length, width)
    workspace = direction.new_empty(batch, length, 2, per_clip)
    _forward(
        *library.pointers(store, factors, direction, valid, out, workspace),
        *(batch, apart, length, per_clip, width, min(kept, per_clip)),
        library.TYPES[store.dtype],
        torch.get_num_threads(),
    )
    return out


def backward(
    grad: Tensor,
    tokens: Tensor,
    u: Tensor,
    kept: int,
    lengths: Tensor | None,
    scales: Tensor | None,
) -> Tensor:
    """The gradient of u, in its dtype; grad is that of the output."""
    batch, length, per_clip, width = tokens.shape
    store, apart = library.prepare_samples(tokens)
    upstream = grad.float().contiguous()
    direction, valid = u.float().contiguous(), library.prepare_lengths(lengths)
    factors = library.prepare_scales(scales)
    grad_u = torch.empty_like(direction)
    workspace = direction.new_empty(batch, 3, per_clip)
    _backward(
        *library.pointers(upstream, store, factors, direction, valid, grad_u, workspace),
        *(batch, apart, length, per_clip, width, min(kept, per_clip)),
        library.TYPES[store.dtype],
        torch.get_num_threads(),
    )
    return grad_u.to(u.dtype)
