"""Sliding-window attention by scaled_dot_product_attention, in time and memory linear in length.

The clips are cut into blocks. A block of queries and all keys that any of them may see, `window`
more on each side and the global clips, are a small attention problem of their own; all blocks are
solved in one call. The global clips' own queries see everything, in a second call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_LEAST_BLOCK = 32  # smaller ones are not worth their call


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
    batch, length = q.shape[:2]
    size = max(window, _LEAST_BLOCK)
    blocks = -(-length // size)
    fill = blocks * size - length
    queries = functional.pad(q, (0, 0, 0, 0, 0, fill)).unflatten(1, (blocks, size))

    def blocked(x: Tensor) -> Tensor:
        """Keys or values that a block may see: [B, L, H, C] -> [B, blocks, g + keys, H, C]."""
        padded = functional.pad(x, (0, 0, 0, 0, window, window + fill))
        near = padded.unfold(1, size + 2 * window, size).movedim(-1, 2)
        everywhere = x[:, None, :global_clips].expand(-1, blocks, -1, -1, -1)
        return torch.cat((everywhere, near), 2)

    mask = _mask(lengths, blocks, size, window, global_clips)
    out = attend(
        queries.flatten(0, 1),
        blocked(k).flatten(0, 1),
        blocked(v).flatten(0, 1),
        mask.flatten(0, 1)[:, None],
        dropout_p,
    )
    out = out.reshape(batch, blocks * size, *out.shape[2:])[:, :length]
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


def _mask(lengths: Tensor, blocks: int, size: int, window: int, global_clips: int) -> Tensor:
    """[B, blocks, size, g + size + 2 window], True where a query sees a key."""
    device = lengths.device
    first = torch.arange(blocks, device=device)[:, None, None] * size
    query = first + torch.arange(size, device=device)[:, None]
    key = first - window + torch.arange(size + 2 * window, device=device)
    # A global clip is seen as such, not once more from nearby.
    valid = (key >= global_clips) & (key < lengths[:, None, None, None])
    # Every query sees itself: a softmax over nothing, in the padding, would be NaN.
    near = ((key - query).abs() <= window) & (valid | (key == query))
    everywhere = torch.arange(global_clips, device=device) < lengths[:, None, None, None]
    return torch.cat((everywhere.expand(-1, blocks, size, -1), near), -1)
