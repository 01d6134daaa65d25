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
    window: int | None = None,
    global_clips: int = 0,
    implementation: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over the valid clips of every video.

    With a window, clip i sees clip j if |i - j| <= window, or if one of them is global; time and
    memory then grow linearly with L. A video that fits into the window is attended to as a whole.

    Args:
        q, k, v: [B, L, H, C].
        lengths: [B] int64, valid part of L; None where all of it is. What lies beyond is not read.
        dropout_p: chance of an attention weight to be dropped.
        window: clips that are seen to each side, at least 1; None is all of them.
        global_clips: so many clips, the first of the video, see all and are seen by all.
        implementation: `auto`, `flash` (flash-attn), `xformers` or `sdpa` (PyTorch).

    Returns:
        [B, L, H, C], 0 beyond `lengths`.

    Raises:
        ValueError: a window of less than 1, or a negative number of global clips.
        ImplementationError: the implementation asked for does not fit the call.
    """
    if (window is not None and window < 1) or global_clips < 0:
        raise ValueError(
            "dense_attention: expected window >= 1 and global_clips >= 0, "
            f"found {window} and {global_clips}"
        )
    if window is None or window >= q.shape[1] - 1:
        window, global_clips = None, 0
    call = (q, k, v, lengths, dropout_p, window, min(global_clips, q.shape[1]))
    return _SERVE[dispatch.choose(OP, implementation, *call)](*call)


def flops(
    batch: int,
    length: int,
    heads: int,
    channels: int,
    window: int | None = None,
    global_clips: int = 0,
) -> int:
    """Both matrix products of the forward pass, a multiply-add counted as two."""
    pairs = length * length
    if window is not None:
        pairs = min(pairs, length * (2 * window + 1 + 2 * global_clips))
    return 4 * batch * heads * pairs * channels


def bytes(batch: int, length: int, heads: int, channels: int, size: int = 4) -> int:
    """Least traffic of the forward pass: q, k and v once, the output once."""
    return 4 * size * batch * length * heads * channels
