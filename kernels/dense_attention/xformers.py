"""Dense attention by xformers: one packed sequence under a block-diagonal mask.

The mask is made from lengths on the host, so every call with lengths waits for the device.
"""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from sdst.kernels import dispatch
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
    """Why this call cannot be served by xformers; empty if it can."""
    half = (torch.float16, torch.bfloat16)
    dtypes = half if window is not None else (*half, torch.float32)
    reasons = missing_module("xformers.ops") or _missing_kernels()
    reasons = reasons + cuda_reasons(q, dtypes)
    if window is not None and lengths is not None:
        reasons.append("a window over videos of several lengths: xformers has only causal ones")
    if global_clips > 0:
        reasons.append(f"{global_clips} global clips beside a window, xformers knows none")
    if lengths is not None and query_lengths is None:
        reasons.append("only the keys have lengths, expected the queries' to be the same")
    return reasons


@dispatch.constant
def _missing_kernels() -> list[str]:
    """Why an xformers that can be imported computes nothing: it warns of that at import only."""
    if import_module("xformers")._has_cpp_library:
        return []
    return ["xformers was built for another torch or CUDA, so that its kernels cannot be loaded"]


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
    from xformers.ops import (  # pyright: ignore[reportMissingImports], which may be absent
        memory_efficient_attention,
    )
    from xformers.ops.fmha.attn_bias import (  # pyright: ignore[reportMissingImports], likewise
        BlockDiagonalMask,
        LocalAttentionFromBottomRightMask,
    )

    if lengths is None:
        mask = window and LocalAttentionFromBottomRightMask(window_left=window, window_right=window)
        return memory_efficient_attention(q, k, v, attn_bias=mask, p=dropout_p)
    packing = Packing(lengths, q.shape[1])
    sizes = [size for size in packing.lengths.tolist() if size]
    mask = BlockDiagonalMask.from_seqlens(sizes)
    rows = (packing.pack(x)[None, : sum(sizes)] for x in (q, k, v))
    out = memory_efficient_attention(*rows, attn_bias=mask, p=dropout_p)
    return packing.unpack(out[0])
