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
    clips = torch.arange(q.shape[1], device=q.device)
    padding = (clips >= lengths[:, None])[..., None, None]
    # An empty video attends to its zeroed first clip, as a softmax over nothing is NaN.
    mask = (clips < lengths.clamp(min=1)[:, None])[:, None, None]
    out = attend(*(x.masked_fill(padding, 0) for x in (q, k, v)), mask, dropout_p)
    return out.masked_fill(padding, 0)
