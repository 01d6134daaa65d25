"""Dense attention by PyTorch's scaled_dot_product_attention: fits every call."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels.dense_attention.windowed import attend, windowed_attention


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
    if lengths is None and window is None:
        return attend(q, k, v, None, dropout_p)
    if lengths is None:
        lengths = torch.full(q.shape[:1], q.shape[1], device=q.device)
    if window is not None:
        return windowed_attention(q, k, v, lengths, dropout_p, window, global_clips)
    padding = _padding(k, lengths)
    # An empty video attends to its zeroed first clip, as a softmax over nothing is NaN.
    seen = ~_padding(k, lengths.clamp(min=1))
    k, v = (x.masked_fill(padding, 0) for x in (k, v))
    if query_lengths is None:
        return attend(q, k, v, seen.permute(0, 2, 3, 1), dropout_p)
    padding = _padding(q, query_lengths)
    out = attend(q.masked_fill(padding, 0), k, v, seen.permute(0, 2, 3, 1), dropout_p)
    return out.masked_fill(padding, 0)


def _padding(x: Tensor, lengths: Tensor) -> Tensor:
    """[B, L, 1, 1], True beyond the valid part of x [B, L, H, C]."""
    return (torch.arange(x.shape[1], device=x.device) >= lengths[:, None])[..., None, None]
