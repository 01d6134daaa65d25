"""Token pooling in plain PyTorch: the truth that every other implementation is held to."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import pyramid
from sdst.kernels.quantization import dequantize


def pool_tokens(
    tokens: Tensor, u: Tensor, kept: int, lengths: Tensor | None, scales: Tensor | None
) -> Tensor:
    """See `sdst.kernels.pool_tokens`."""
    lengths = pyramid.valid_lengths(tokens, lengths)
    dtype = torch.promote_types(u.dtype, torch.float32)
    padding = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]
    tokens = tokens.detach() if scales is None else dequantize(tokens, scales)
    tokens = tokens.to(dtype).masked_fill(padding[..., None, None], 0)
    scores = torch.einsum("blpd,bd->blp", tokens, u.to(dtype))
    if tokens.shape[2] < kept:
        kept = tokens.shape[2]
    threshold = scores.detach().topk(kept, dim=-1).values[..., -1:]
    weights = scores.masked_fill(scores < threshold, -torch.inf).softmax(-1)
    return torch.einsum("blp,blpd->bld", weights, tokens)
