"""Sliding-window attention by scaled_dot_product_attention, in time and memory linear in length.

The clips are cut into blocks. A block of queries and all keys that any of them may see, `window`
more on each side and the global clips, are a small attention problem of their own; many blocks are
solved in one call. The global clips' own queries see everything, in a call of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_BLOCK = 32  # smaller ones are not worth their call
_CLIPS_AT_ONCE = 4096  # neighbouring blocks share keys: bounds the memory of their copies


def windowed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor,
    dropout_p: float,
    window: int,
    global_clips: int,
) -> Tensor:
    """Attention [B, L, H, C] among clips at most `window` apart, and to and from the global ones.

    q, k and v are 0 beyond `lengths` [B]; what comes out there means nothing, but is finite.
    """
    length = q.shape[1]
    size = max(window, _LEAST_BLOCK)
    blocks = -(-length // size)
    fill = blocks * size - length
    queries = functional.pad(q, (0, 0, 0, 0, 0, fill)).unflatten(1, (blocks, size))
    near_keys, near_values = (
        functional.pad(x, (0, 0, 0, 0, window, window + fill))
        .unfold(1, size + 2 * window, size)
        .movedim(-1, 2)  # [B, blocks, size + 2 window, H, C], a view
        for x in (k, v)
    )

    def solve(first: int, last: int) -> Tensor:
        """Blocks [first, last): [B, clips, H, C]."""
        keys, values = (
            torch.cat(
                (x[:, None, :global_clips].expand(-1, last - first, -1, -1, -1), near), 2
            ).flatten(0, 1)
            for x, near in ((k, near_keys[:, first:last]), (v, near_values[:, first:last]))
        )
        mask = _mask(lengths, first, last, size, window, global_clips).flatten(0, 1)[:, None]
        out = attend(queries[:, first:last].flatten(0, 1), keys, values, mask, dropout_p)
        return out.unflatten(0, (q.shape[0], last - first)).flatten(1, 2)

    step = max(_CLIPS_AT_ONCE // size, 1)
    stretches = [solve(i, min(i + step, blocks)) for i in range(0, blocks, step)]
    out = torch.cat(stretches, 1)[:, :length]
    if global_clips == 0:
        return out
    valid = torch.arange(length, device=q.device) < lengths.clamp(min=1)[:, None]
    seeing_all = attend(q[:, :global_clips], k, v, valid[:, None, None], dropout_p)
    return torch.cat((seeing_all, out[:, global_clips:]), 1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout_p: float) -> Tensor:
    """scaled_dot_product_attention of [B, L, H, C]."""
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    attended = functional.scaled_dot_product_attention(
        *heads_first, attn_mask=mask, dropout_p=dropout_p
    )
    return attended.transpose(1, 2)


def _mask(
    lengths: Tensor, first: int, last: int, size: int, window: int, global_clips: int
) -> Tensor:
    """[B, blocks, size, g + size + 2 window], True where a query of blocks [first, last) sees."""
    device = lengths.device
    start = torch.arange(first, last, device=device)[:, None, None] * size
    offset = torch.arange(size + 2 * window, device=device) - window
    apart = offset - torch.arange(size, device=device)[:, None]  # key minus query, in every block
    key = start + offset
    # A global clip is seen as such, not once more from nearby.
    valid = (key >= global_clips) & (key < lengths[:, None, None, None])
    # Every query sees itself: a softmax over nothing, in the padding, would be NaN.
    near = (valid & (apart.abs() <= window)) | (apart == 0)
    everywhere = torch.arange(global_clips, device=device) < lengths[:, None, None, None]
    return torch.cat((everywhere.expand(-1, last - first, size, -1), near), -1)
