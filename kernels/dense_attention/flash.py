"""Dense attention by flash-attn's varlen kernel, which computes nothing for padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.dense_attention.packing import Packing, cuda_reasons, missing_module


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
    from flash_attn import (  # pyright: ignore[reportMissingImports], which may be absent
        flash_attn_func,
        flash_attn_varlen_func,
    )

    reach = -1 if window is None else window
    options = {"dropout_p": dropout_p, "window_size": (reach, reach)}
    if lengths is None:
        return flash_attn_func(q, k, v, **options)
    longest = q.shape[1]
    packing = Packing(lengths, longest)
    starts = functional.pad(packing.lengths.cumsum(0), (1, 0)).to(torch.int32)
    rows = (packing.pack(x) for x in (q, k, v))
    out = flash_attn_varlen_func(*rows, starts, starts, longest, longest, **options)
    return packing.unpack(out)
