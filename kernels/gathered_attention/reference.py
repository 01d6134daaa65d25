"""Gathered attention in plain PyTorch: the truth that every other implementation is held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdst.kernels import pyramid


def gathered_attention(
    query: Tensor,
    tokens: Tensor,
    indices: Tensor,
    bias: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: Sequence[int],
    scale: float,
    scales: Tensor | None,
) -> Tensor:
    """See `sdst.kernels.gathered_attention`."""
    if pyramid.has_contents(indices):
        pyramid.check_indices("gathered_attention", indices, valid, tokens, strides)
    lengths = pyramid.valid_lengths(tokens, lengths)
    indices = indices.where(valid, 0)
    picked = pyramid.gather(tokens, indices, valid, lengths, strides, scales)
    flat = (query.to(picked.dtype) * scale).flatten(1, 2)
    logits = torch.bmm(flat, picked.transpose(1, 2)) + bias.to(picked.dtype)[:, None]
    # A finite fill keeps the softmax of a row with nothing valid, and its gradient, free of NaN;
    # the picked tokens are 0 there, and so is the result.
    lowest = torch.finfo(logits.dtype).min
    attention = logits.masked_fill(~valid[:, None], lowest).softmax(-1)
    return torch.bmm(attention, picked).view(query.shape).to(query.dtype)
