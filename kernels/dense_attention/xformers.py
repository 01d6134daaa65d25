"""Dense attention by xformers: one packed sequence under a block-diagonal mask."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels.dense_attention.packing import cuda_reasons, missing_module, pack, unpack


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
    """Why this call cannot be served by xformers; empty if it can."""
    half = (torch.float16, torch.bfloat16)
    dtypes = half if window is not None else (*half, torch.float32)
    reasons = missing_module("xformers.ops") + cuda_reasons(q, dtypes)
    if window is not None and lengths is not None:
        reasons.append("a window over videos of several lengths: xformers has only causal ones")
    if global_clips > 0:
        reasons.append(f"{global_clips} global clips beside a window, xformers knows none")
    if lengths is not None and query_lengths is None:
        reasons.append("only the keys have lengths, expected the queries' to be the same")
    return reasons


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    dropout_p: float,
    window: int | None,
    global_clips: int,
) -> Tensor:
    """See `sdst.kernels.dense_attention`."""
    from xformers.ops import memory_efficient_attention
    from xformers.ops.fmha.attn_bias import BlockDiagonalMask, LocalAttentionFromBottomRightMask

    if lengths is None:
        mask = window and LocalAttentionFromBottomRightMask(window_left=window, window_right=window)
        return memory_efficient_attention(q, k, v, attn_bias=mask, p=dropout_p)
    lengths = lengths.clamp(max=q.shape[1])
    packed, rows = pack(q, k, v, lengths)
    mask = BlockDiagonalMask.from_seqlens([n for n in lengths.tolist() if n])
    out = memory_efficient_attention(*(x[None] for x in packed), attn_bias=mask, p=dropout_p)
    return unpack(out[0], rows, q)
