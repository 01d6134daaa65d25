"""The temporal pyramid over frozen tokens that select_tokens and gathered_attention share.

Level r holds ceil(L / stride_r) time steps of P tokens, each the mean over the valid clips of its
stride window. It is never stored: a flat index, offset_r + t * P + p with the levels concatenated
in the order of the strides, names an entry, and an entry is read as the mean of its raw tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.exporting import is_exporting


class Entries(NamedTuple):
    """Raw tokens behind pyramid entries.

    Attributes:
        rows: [B, k, W] int64, token rows of the flattened [B * L * P]; W is the widest stride, L
            at most. Past the end of a window its first row is repeated, so that padding is never
            read.
        weights: [B, k, W], 1 / count for the rows of the window, 0 for the repeats.
    """

    rows: Tensor
    weights: Tensor


MOST_STRIDE = 2**20  # clips; of a stride, and so that 32 bits hold what is computed of it
MOST_ENTRIES = 2**30  # of a pyramid, as a key of select_tokens holds an index in 30 bits


def check_strides(op: str, tokens: Tensor, strides: Sequence[int]) -> None:
    """Raise ValueError unless there are strides, all from 1 to MOST_STRIDE, and make a pyramid of
    tokens [B, L, P, D] that is not too large to be indexed."""
    integers = isinstance(strides, Sequence) and all(
        isinstance(stride, (int, np.integer)) for stride in strides
    )
    if not integers or not strides or min(strides) < 1 or max(strides) > MOST_STRIDE:
        found = list(strides) if isinstance(strides, Sequence) else strides
        raise ValueError(
            f"{op}: strides are {found!r}, expected one or more integers from 1 to {MOST_STRIDE}"
        )
    if (count := sum(steps(tokens.shape[1], strides)) * tokens.shape[2]) > MOST_ENTRIES:
        raise ValueError(
            f"{op}: tokens {list(tokens.shape)} at strides {list(strides)} have {count} entries, "
            f"expected at most {MOST_ENTRIES}; give fewer clips at a time"
        )


def check_indices(
    op: str, indices: Tensor, valid: Tensor, tokens: Tensor, strides: Sequence[int]
) -> None:
    """Raise ValueError unless every valid index [B, k] is one of the pyramid of `tokens`.

    Looks at contents, so a kernel on a GPU, or what is compiled, does not ask.
    """
    count = sum(steps(tokens.shape[1], strides)) * tokens.shape[2]
    # As unsigned numbers the negative ones are the greatest. By numpy: a third of the time.
    if indices.numpy().view(np.uint64).max(initial=0) < count:
        return
    wrong = valid & ((indices < 0) | (indices >= count))
    if wrong.any():
        sample, place = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"{op}: indices[{sample}, {place}] is {int(indices[sample, place])}, expected 0 to "
            f"{count - 1}, an entry of the pyramid of tokens {list(tokens.shape)} at strides "
            f"{list(strides)}, or valid False"
        )


def has_contents(tensor: Tensor) -> bool:
    """Whether what `tensor` holds can be looked at here without waiting for a device."""
    plain = type(tensor) is Tensor and tensor.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()


def steps(length: int, strides: Sequence[int]) -> list[int]:
    """Time steps of every level: ceil(L / stride)."""
    return [-(-length // stride) for stride in strides]


def valid_lengths(tokens: Tensor, lengths: Tensor | None) -> Tensor:
    """[B]: `lengths` in [0, L], or all of L where None."""
    if lengths is None:
        return torch.full(tokens.shape[:1], tokens.shape[1], device=tokens.device)
    return lengths.clamp(0, tokens.shape[1])


def entries(tokens: Tensor, indices: Tensor, lengths: Tensor, strides: Sequence[int]) -> Entries:
    """Locate the raw tokens behind flat pyramid `indices` [B, k] of tokens [B, L, P, D]."""
    batch, length, per_clip, _ = tokens.shape
    device = tokens.device
    sizes = torch.tensor([n * per_clip for n in steps(length, strides)], device=device)
    ends = sizes.cumsum(0)
    level = (indices[..., None] >= ends[:-1]).sum(-1)
    local = indices - (ends - sizes)[level]
    stride = torch.tensor(list(strides), device=device)[level]
    step = local.div(per_clip, rounding_mode="floor")
    start = step * stride
    count = torch.minimum(lengths[:, None] - start, stride).clamp(min=1)[..., None]

    widest = max(strides)
    offset = torch.arange(widest if is_exporting() else min(widest, max(length, 1)), device=device)
    inside = offset < count
    clip = start[..., None] + torch.where(inside, offset, 0)
    first_row = torch.arange(batch, device=device)[:, None, None] * (length * per_clip)
    rows = first_row + clip * per_clip + (local - step * per_clip)[..., None]
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
    if tokens.shape[1] == 0:  # nothing that even a masked index could point to
        dtype = torch.promote_types(tokens.dtype, torch.float32)
        return tokens.new_zeros(*indices.shape, tokens.shape[-1], dtype=dtype)
    rows, weights = entries(tokens, indices, lengths, strides)
    if scales is not None:
        weights = weights * scales.flatten()[rows]
    flat = tokens.detach().flatten(0, 2)
    dtype = torch.promote_types(flat.dtype, torch.float32)
    if flat.dtype == dtype and not is_exporting():
        # A weighted sum of rows without a copy of the rows.
        taken = functional.embedding_bag(
            rows.flatten(0, 1), flat, mode="sum", per_sample_weights=weights.flatten(0, 1).to(dtype)
        )
    else:
        taken = (flat[rows].to(dtype) * weights[..., None]).sum(2)
    return taken.view(*indices.shape, tokens.shape[-1]).masked_fill(~valid[..., None], 0)
