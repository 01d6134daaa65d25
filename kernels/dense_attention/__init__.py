"""Self-attention over time with lengths: a thin front over the attention libraries."""

from __future__ import annotations

from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.dense_attention import sdpa

dispatch.register("dense_attention", sdpa=dispatch.always)


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    implementation: str = "auto",
) -> Tensor:
    dispatch.choose("dense_attention", implementation, q, k, v, lengths, dropout_p)
    return sdpa.dense_attention(q, k, v, lengths, dropout_p)
