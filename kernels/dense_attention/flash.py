"""Dense attention by flash-attn's varlen kernel: padding is neither computed nor stored."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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
    """Why this call cannot be served by flash-attn; empty if it can."""
    reasons = missing_module("flash_attn") + cuda_reasons(q, (torch.float16, torch.bfloat16))
    if q.shape[-1] > 256:
        reasons.append(f"heads are {q.shape[-1]} wide, expected at most 256")
    if global_clips > 0:
        reasons.append(f"{global_clips} global clips beside a window, flash-attn knows none")
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
    from flash_attn import flash_attn_func, flash_attn_varlen_func

    reach = -1 if window is None else window
    options = {"dropout_p": dropout_p, "window_size": (reach, reach)}
    if lengths is None:
        return flash_attn_func(q, k, v, **options)
    lengths = lengths.clamp(max=q.shape[1])
    packed, rows = pack(q, k, v, lengths)
    starts = functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    longest = q.shape[1]
    out = flash_attn_varlen_func(*packed, starts, starts, longest, longest, **options)
    return unpack(out, rows, q)
