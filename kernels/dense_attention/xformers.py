"""Dense attention by xformers: one packed sequence under a block-diagonal mask."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels.dense_attention.packing import cuda_reasons, missing_module, pack, unpack


def unsupported_reasons(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, dropout_p: float
) -> list[str]:
    """Why this call cannot be served by xformers; empty if it can."""
    dtypes = (torch.float16, torch.bfloat16, torch.float32)
    return missing_module("xformers.ops") + cuda_reasons(q, dtypes)


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, dropout_p: float
) -> Tensor:
    """See `sdst.kernels.dense_attention`."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha import BlockDiagonalMask

    if lengths is None:
        return memory_efficient_attention(q, k, v, p=dropout_p)
    packed, rows = pack(q, k, v, lengths)
    mask = BlockDiagonalMask.from_seqlens([n for n in lengths.tolist() if n])
    out = memory_efficient_attention(*(x[None] for x in packed), attn_bias=mask, p=dropout_p)
    return unpack(out[0], rows, q)
