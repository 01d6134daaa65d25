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

    Positions beyond `lengths` [B] are not attended to, and 0 comes out there.
    """
    length = q.shape[1]
    size = max(window, _LEAST_BLOCK)
    blocks = -(-length // size)

    def valid(begin: int, end: int) -> Tensor:
        """Which of the clips [begin, end) are of the video: [B, clips, 1, 1]."""
        return (torch.arange(begin, end, device=q.device) < lengths[:, None])[..., None, None]

    def piece(x: Tensor, begin: int, end: int) -> Tensor:
        """Clips [begin, end) of x, 0 outside of the video."""
        first, last = max(begin, 0), min(end, length)
        inside = x[:, first:last].masked_fill(~valid(first, last), 0)
        return functional.pad(inside, (0, 0, 0, 0, first - begin, end - last))

    def solve(first: int, last: int) -> Tensor:
        """Blocks [first, last): [B, clips, H, C]."""
        begin, end = first * size, last * size
        queries = piece(q, begin, end).unflatten(1, (last - first, size))
        keys, values = (
            torch.cat(
                (
                    piece(x, 0, global_clips)[:, None].expand(-1, last - first, -1, -1, -1),
                    piece(x, begin - window, end + window)
                    .unfold(1, size + 2 * window, size)
                    .movedim(-1, 2),  # [B, blocks, size + 2 window, H, C], a view
                ),
                2,
            ).flatten(0, 1)
            for x in (k, v)
        )
        mask = _mask(lengths, first, last, size, window, global_clips).flatten(0, 1)[:, None]
        out = attend(queries.flatten(0, 1), keys, values, mask, dropout_p)
        out = out.unflatten(0, (q.shape[0], last - first)).flatten(1, 2)
        return out.masked_fill(~valid(begin, end), 0)

    step = max(_CLIPS_AT_ONCE // size, 1)
    stretches = [solve(i, min(i + step, blocks)) for i in range(0, blocks, step)]
    out = torch.cat(stretches, 1)[:, :length]
    if global_clips == 0:
        return out
    everything = piece(k, 0, length), piece(v, 0, length)
    seen = valid(0, length) | (lengths < 1)[:, None, None, None]  # a softmax over nothing is NaN
    seeing_all = attend(
        piece(q, 0, global_clips), *everything, seen.permute(0, 2, 3, 1), dropout_p
    ).masked_fill(~valid(0, global_clips), 0)
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
