"""Dense attention by PyTorch's scaled_dot_product_attention: fits every call."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def dense_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, dropout_p: float
) -> Tensor:
    """See `sdst.kernels.dense_attention`."""
    if lengths is None:
        return _attend(q, k, v, None, dropout_p)
    clips = torch.arange(q.shape[1], device=q.device)
    padding = (clips >= lengths[:, None])[..., None, None]
    q, k, v = (x.masked_fill(padding, 0) for x in (q, k, v))
    # An empty video attends to its zeroed first clip, as a softmax over nothing is NaN.
    mask = (clips < lengths.clamp(min=1)[:, None])[:, None, None]
    return _attend(q, k, v, mask, dropout_p).masked_fill(padding, 0)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    attended = functional.scaled_dot_product_attention(
        *heads_first, attn_mask=mask, dropout_p=dropout_p
    )
    return attended.transpose(1, 2)
