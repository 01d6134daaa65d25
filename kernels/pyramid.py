"""The temporal pyramid over frozen tokens that select_tokens and gathered_attention share.

Level r holds ceil(L / stride_r) time steps of P tokens, each the mean over the valid clips of its
stride window. It is never stored: a flat index, offset_r + t * P + p with the levels concatenated
in the order of the strides, names an entry, and an entry is read as the mean of its raw tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Entries(NamedTuple):
    """Raw tokens behind pyramid entries.

    Attributes:
        rows: [B, k, W] int64, token rows of the flattened [B * L * P]; W is the widest stride.
            Past the end of a window its first row is repeated, so that padding is never read.
        weights: [B, k, W], 1 / count for the rows of the window, 0 for the repeats.
    """

    rows: Tensor
    weights: Tensor


def check_strides(op: str, strides: Sequence[int]) -> None:
    """Raise ValueError unless there are strides, all of at least 1."""
    if not strides or min(strides) < 1:
        raise ValueError(f"{op}: strides are {list(strides)}, expected one or more of at least 1")


def steps(length: int, strides: Sequence[int]) -> list[int]:
    """Time steps of every level: ceil(L / stride)."""
    return [-(-length // stride) for stride in strides]


def valid_lengths(tokens: Tensor, lengths: Tensor | None) -> Tensor:
    """[B] int64: `lengths`, at most L, or all of L where None."""
    if lengths is None:
        return torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
    return lengths.clamp(max=tokens.shape[1])


def entries(tokens: Tensor, indices: Tensor, lengths: Tensor, strides: Sequence[int]) -> Entries:
    """Locate the raw tokens behind flat pyramid `indices` [B, k] of tokens [B, L, P, D]."""
    batch, length, per_clip, _ = tokens.shape
    device = tokens.device
    sizes = torch.tensor([n * per_clip for n in steps(length, strides)], device=device)
    ends = sizes.cumsum(0)
    level = torch.bucketize(indices, ends, right=True).clamp(max=len(strides) - 1)
    local = indices - (ends - sizes)[level]
    stride = torch.tensor(list(strides), device=device)[level]
    start = local.div(per_clip, rounding_mode="floor") * stride
    count = torch.minimum(lengths[:, None] - start, stride).clamp(min=1)[..., None]

    offset = torch.arange(max(strides), device=device)
    inside = offset < count
    clip = start[..., None] + torch.where(inside, offset, 0)
    first_row = torch.arange(batch, device=device)[:, None, None] * (length * per_clip)
    rows = first_row + clip * per_clip + (local % per_clip)[..., None]
    return Entries(rows, inside / count)


def gather(
    tokens: Tensor,
    indices: Tensor,
    valid: Tensor,
    lengths: Tensor,
    strides: Sequence[int],
    scales: Tensor | None = None,
) -> Tensor:
    """Pyramid entries [B, k, D] in fp32 or wider, 0 where not valid. The tokens get no gradient."""
    rows, weights = entries(tokens, indices, lengths, strides)
    if scales is not None:
        weights = weights * scales.flatten()[rows]
    flat = tokens.detach().flatten(0, 2)
    dtype = torch.promote_types(flat.dtype, torch.float32)
    if flat.dtype == dtype:
        # A weighted sum of rows without a copy of the rows.
        taken = functional.embedding_bag(
            rows.flatten(0, 1), flat, mode="sum", per_sample_weights=weights.flatten(0, 1).to(dtype)
        )
    else:
        taken = (flat[rows].to(dtype) * weights[..., None]).sum(2)
    return taken.view(*indices.shape, tokens.shape[-1]).masked_fill(~valid[..., None], 0)
