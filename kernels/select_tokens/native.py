"""Token selection in C++ (csrc/cpu/select_tokens.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library, pyramid

_forward = library.function("sdst_select_tokens_forward", "pppppppppp" + "nnnnnnnnn" + "ii")
_backward = library.function("sdst_select_tokens_backward", "pppppppp" + "nnnnnnn" + "ii")


def unsupported_reasons(tokens: Tensor, u: Tensor, *rest: object) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(tokens=tokens, u=u)


def forward(
    tokens: Tensor,
    u: Tensor,
    k: int,
    lengths: Tensor | None,
    strides: list[int],
    segments: int,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, indices and validity [B, k], see the op."""
    batch, length, per_clip, width = tokens.shape
    store, apart = library.prepare_samples(tokens)
    direction = u.float().contiguous()
    valid_lengths, levels = library.prepare_lengths(lengths), torch.tensor(strides)
    factors = library.prepare_scales(scales)
    indices = tokens.new_empty(batch, k, dtype=torch.int64)
    scores = direction.new_empty(batch, k)
    valid = tokens.new_empty(batch, k, dtype=torch.bool)
    entries = sum(pyramid.steps(length, strides)) * per_clip
    token_scores = direction.new_empty(batch, length, per_clip)
    keys = indices.new_empty(batch, entries)
    _forward(
        *library.pointers(store, factors, direction, valid_lengths, levels),
        *library.pointers(indices, scores, valid, token_scores, keys),
        *(batch, apart, length, per_clip, width, k, len(strides), segments, entries),
        library.TYPES[store.dtype],
        torch.get_num_threads(),
    )
    return scores, indices, valid


def backward(
    grad: Tensor,
    tokens: Tensor,
    indices: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: list[int],
    scales: Tensor | None,
) -> Tensor:
    """The gradient of u [B, D] fp32; grad [B, k] is that of the scores."""
    batch, length, per_clip, width = tokens.shape
    store, apart = library.prepare_samples(tokens)
    pyramid.check_indices("select_tokens", indices, valid, tokens, strides)
    upstream = grad.float().contiguous()
    picked, real = indices.contiguous(), valid.contiguous()
    valid_lengths, levels = library.prepare_lengths(lengths), torch.tensor(strides)
    factors = library.prepare_scales(scales)
    grad_u = upstream.new_empty(batch, width)
    _backward(
        *library.pointers(upstream, store, factors, picked, valid_lengths, levels, real, grad_u),
        *(batch, apart, length, per_clip, width, indices.shape[1], len(strides)),
        library.TYPES[store.dtype],
        torch.get_num_threads(),
    )
    return grad_u
