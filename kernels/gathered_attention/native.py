"""Gathered attention in C++ (csrc/cpu/gathered_attention.cpp), by ctypes.

The store is read in its stored format; queries, products and sums are fp32. Rows are kept as
[H, B, M, D], as the multiply with a projection's heads returns them and the next one takes them, so
nothing is copied between the three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import library, pyramid

LANES = 8  # floats of a register: what a width is filled up to
# kBlock, kTile and kChannels of the C++ source: rows of a task, tokens and channels of a tile.
BLOCK, TILE, CHANNELS = 96, 16, 256

_forward = library.function("sdst_gathered_attention_forward", "p" * 10 + "n" * 10 + "fii")
_backward = library.function(
    "sdst_gathered_attention_backward", "pppppppppppp" + "nnnnnnnnnn" + "fii"
)


def unsupported_reasons(
    query: Tensor, tokens: Tensor, indices: Tensor, bias: Tensor, *rest: object
) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    return library.unsupported_reasons(query=query, tokens=tokens, bias=bias)


def forward(
    query: Tensor,
    tokens: Tensor,
    indices: Tensor,
    bias: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: Sequence[int],
    scale: float,
    scales: Tensor | None,
) -> Tensor:
    """out [B, M, H, D] of the op, in the dtype of query."""
    rows = _to_rows(query)
    out = torch.empty_like(rows)
    keys = (tokens, scales, indices, bias, valid, lengths, strides)
    _call(_forward, (rows,), keys, (out,), scale)
    return _from_rows(out, query)


def backward(
    grad: Tensor,
    query: Tensor,
    tokens: Tensor,
    indices: Tensor,
    bias: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: Sequence[int],
    scale: float,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of query and bias, each in its dtype; grad is that of out."""
    rows, upstream = _to_rows(query), _to_rows(grad)
    grad_query = torch.empty_like(rows)
    # A part for every block of rows: who computes it is not fixed, the order of their sum is.
    grad_bias = rows.new_empty(len(bias), _blocks(rows), indices.shape[1])
    keys = (tokens, scales, indices, bias, valid, lengths, strides)
    _call(_backward, (upstream, rows), keys, (grad_query, grad_bias), scale)
    return _from_rows(grad_query, query), grad_bias.sum(1).to(bias.dtype)


def _to_rows(x: Tensor) -> Tensor:
    """[B, M, H, D] as [H, B, M, W] in contiguous fp32, zeros appended until W fills registers."""
    missing = -x.shape[-1] % LANES
    x = functional.pad(x, (0, missing)) if missing else x
    return x.permute(2, 0, 1, 3).float().contiguous()


def _from_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Results back in the shape and dtype of `like`."""
    return rows[..., : like.shape[-1]].to(like.dtype).contiguous().permute(1, 2, 0, 3)


def _blocks(rows: Tensor) -> int:
    return -(-rows.shape[0] * rows.shape[2] // BLOCK)


def _call(
    function: Callable[..., None],
    rows: tuple[Tensor, ...],
    keys: tuple,
    results: tuple[Tensor, ...],
    scale: float,
) -> None:
    """Run `function` over rows [H, B, M, W] and the kept tokens (tokens, scales, ...)."""
    tokens, scales, indices, bias, valid, lengths, strides = keys
    pyramid.check_indices("gathered_attention", indices, valid, tokens, strides)
    heads, batch, queries, padded = rows[0].shape
    kept = indices.shape[1]
    columns = -(-kept // TILE) * TILE
    slice_size = 2 * TILE * CHANNELS + (2 + 2 * BLOCK) * columns
    # Kept in names, as a pointer keeps nothing alive.
    store, apart = library.prepare_samples(tokens)
    picked, added, real = (x.contiguous() for x in (indices, bias.float(), valid))
    factors = library.prepare_scales(scales)
    valid_lengths, levels = library.prepare_lengths(lengths), torch.tensor(list(strides))
    workspace = added.new_empty(batch, _blocks(rows[0]), slice_size)
    function(
        *library.pointers(*rows, store, factors, picked, added, real, valid_lengths, levels),
        *library.pointers(*results, workspace),
        *(batch, apart, *tokens.shape[1:], len(strides), queries, heads, padded, kept),
        *(scale, library.TYPES[store.dtype], torch.get_num_threads()),
    )
