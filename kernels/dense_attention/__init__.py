"""Self-attention over time with lengths: a thin front over the attention libraries."""

from __future__ import annotations

from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.dense_attention import flash, sdpa, xformers

OP = "dense_attention"
_SERVE = {
    "flash": flash.dense_attention,
    "xformers": xformers.dense_attention,
    "sdpa": sdpa.dense_attention,
}
dispatch.register(
    OP,
    flash=flash.unsupported_reasons,
    xformers=xformers.unsupported_reasons,
    sdpa=dispatch.always,
)


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    implementation: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over the valid clips of every video.

    Args:
        q, k, v: [B, L, H, C].
        lengths: [B] int64, valid part of L; None where all of it is. What lies beyond is not read.
        dropout_p: chance of an attention weight to be dropped.
        implementation: `auto`, `flash` (flash-attn), `xformers` or `sdpa` (PyTorch).

    Returns:
        [B, L, H, C], 0 beyond `lengths`.

    Raises:
        ImplementationError: the implementation asked for does not fit the call.
    """
    chosen = dispatch.choose(OP, implementation, q, k, v, lengths, dropout_p)
    return _SERVE[chosen](q, k, v, lengths, dropout_p)


def flops(batch: int, length: int, heads: int, channels: int) -> int:
    """Both matrix products of the forward pass, a multiply-add counted as two."""
    return 4 * batch * heads * length * length * channels


def bytes(batch: int, length: int, heads: int, channels: int, size: int = 4) -> int:
    """Least traffic of the forward pass: q, k and v once, the output once."""
    return 4 * size * batch * length * heads * channels
