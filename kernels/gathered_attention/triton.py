"""Gathered attention in Triton.

The kept tokens, averaged, are gathered once into [B, k, D] fp32 for the length of a call: every row
(a query in a head) reads all of them twice, and a sample's fit the L2 cache, where its raw tokens,
up to W = 8 to an entry, would be read and averaged for each block of rows again. Fused is the
rest: averaging, casting and scaling while gathering; scale, bias, mask and softmax in
the second of the two products; the softmax's gradient and that of the bias between them.

The eager formulation copies windows of W rows of a 16-bit store, casts and weights them, 22 W B k D
bytes, where the gather reads the raw tokens and writes 4 B k D; and it passes the logits eight
times (product, bias, mask and softmax read and write, the last product reads), 32 B M H k bytes,
here three times. At B=64, M=10, H=8, k=64, D=768: 553 MB and 10 MB become 13 MB and 4 MB.

Nothing is kept for the backward, which computes the products again. The gradient of the bias is
summed over blocks of rows in a fixed order: no atomics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import triton_support
from sdst.kernels.pyramid_triton import load_entries, locate, readable, valid_length

WARPS = 4
ROWS = 16  # queries and heads per program
KEYS = 32  # kept tokens per program of the products, and per turn of the sums
TURN = 32  # channels per turn of the products
OUTPUTS = 64  # channels per program of the sums
GATHERED, CHANNELS = 4, 128  # kept tokens and channels per program of the gather


@triton.jit
def gather_kernel(
    p_tokens,
    p_indices,
    p_valid,
    p_lengths,
    p_scales,
    p_entries,
    p_usable,
    token_stride,
    L,
    P,
    D,
    K,
    STRIDES: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """x [B, K, D] in fp32: entries of the pyramid, 0 where not usable; usable [B, K]: those that
    are valid and there."""
    blocks = tl.cdiv(K, BK)
    batch = tl.program_id(0).to(tl.int64) // blocks
    o_k = tl.program_id(0) % blocks * BK + tl.arange(0, BK)
    o_d = tl.program_id(1) * BO + tl.arange(0, BO)
    m_k = o_k < K
    if p_scales is not None:
        p_scales += batch * L * P

    index = tl.load(p_indices + batch * K + o_k, mask=m_k, other=0)
    valid = tl.load(p_valid + batch * K + o_k, mask=m_k, other=0) != 0
    row, clips, found = locate(index, valid_length(p_lengths, batch, L), L, P, STRIDES)
    valid &= found
    if tl.program_id(1) == 0:
        tl.store(p_usable + batch * K + o_k, valid, mask=m_k)
    # [BK, BO]
    p_sample = p_tokens + batch * token_stride
    b_entries = load_entries(p_sample, row, clips, valid, o_d, P, D, p_scales)
    p_rows = p_entries + (batch * K + o_k)[:, None] * D + o_d[None, :]
    tl.store(p_rows, b_entries, mask=m_k[:, None] & (o_d < D)[None, :])


@triton.jit
def _rows_of_program(B, M, H, BR: tl.constexpr):
    """This program's sample, its rows of [B, M H], where they are in [H, B, M], and which exist."""
    blocks = tl.cdiv(M * H, BR)
    batch = tl.program_id(0).to(tl.int64) // blocks
    o_r = tl.program_id(0) % blocks * BR + tl.arange(0, BR)
    return batch, batch * M * H + o_r, (o_r // M * B + batch) * M + o_r % M, o_r < M * H


@triton.jit
def products_kernel(
    p_rows,
    p_entries,
    p_products,
    B,
    M,
    H,
    K,
    D,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
):
    """<r, x_j> [B, M H, K] of rows r [H, B, M, D] and entries x [B, K, D]."""
    batch, o_r, o_place, m_r = _rows_of_program(B, M, H, BR)
    o_k = tl.program_id(1) * BK + tl.arange(0, BK)
    m_k = o_k < K

    # [BR, BK]
    b_products = tl.zeros([BR, BK], tl.float32)
    for d in range(0, D, BD):
        o_d = d + tl.arange(0, BD)
        m_d = o_d < D
        p_tile = p_rows + o_place[:, None] * D + o_d[None, :]
        b_rows = tl.load(p_tile, mask=m_r[:, None] & m_d[None, :], other=0).to(tl.float32)
        p_tile = p_entries + (batch * K + o_k)[None, :] * D + o_d[:, None]
        b_entries = tl.load(p_tile, mask=m_k[None, :] & m_d[:, None], other=0)
        b_products = tl.dot(b_rows, b_entries, b_products, input_precision="tf32x3")
    p_tile = p_products + o_r[:, None] * K + o_k[None, :]
    tl.store(p_tile, b_products, mask=m_r[:, None] & m_k[None, :])


@triton.jit
def _logits(p_products, p_bias, p_valid, batch, o_r, m_r, o_k, K, scale):
    """scale <q, x_j> + bias_j [BR, BK], -inf where a row or an entry takes no part."""
    m_k = o_k < K
    m_k &= tl.load(p_valid + batch * K + o_k, mask=m_k, other=0) != 0
    m_both = m_r[:, None] & m_k[None, :]
    b_products = tl.load(p_products + o_r[:, None] * K + o_k[None, :], mask=m_both, other=0)
    b_bias = tl.load(p_bias + batch * K + o_k, mask=m_k, other=0).to(tl.float32)
    return tl.where(m_both, scale * b_products + b_bias[None, :], float("-inf"))


@triton.jit
def _highest(p_products, p_bias, p_valid, batch, o_r, m_r, K, scale, BK: tl.constexpr):
    """The greatest logit of every row [BR]; 0 where there is none, as -inf - -inf would be NaN."""
    b_top = tl.full(o_r.shape, float("-inf"), tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        b_logits = _logits(p_products, p_bias, p_valid, batch, o_r, m_r, o_k, K, scale)
        b_top = tl.maximum(b_top, tl.max(b_logits, 1))
    return tl.where(b_top == float("-inf"), 0.0, b_top)


@triton.jit
def _load_entries(p_entries, batch, o_k, o_d, K, D):
    """[BK, BO] of entries [B, K, D], 0 where there are none."""
    p_tile = p_entries + (batch * K + o_k)[:, None] * D + o_d[None, :]
    return tl.load(p_tile, mask=(o_k < K)[:, None] & (o_d < D)[None, :], other=0)


@triton.jit
def attend_kernel(
    p_products,
    p_bias,
    p_valid,
    p_entries,
    p_out,
    scale,
    B,
    M,
    H,
    K,
    D,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """out = sum_j softmax_j(scale <q, x_j> + bias_j) x_j for rows [H, B, M, D]."""
    batch, o_r, o_place, m_r = _rows_of_program(B, M, H, BR)
    o_d = tl.program_id(1) * BO + tl.arange(0, BO)
    b_top = _highest(p_products, p_bias, p_valid, batch, o_r, m_r, K, scale, BK)

    # [BR], [BR, BO]
    b_total = tl.zeros([BR], tl.float32)
    b_out = tl.zeros([BR, BO], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        b_logits = _logits(p_products, p_bias, p_valid, batch, o_r, m_r, o_k, K, scale)
        b_weights = tl.exp(b_logits - b_top[:, None])
        b_total += tl.sum(b_weights, 1)
        b_entries = _load_entries(p_entries, batch, o_k, o_d, K, D)
        b_out = tl.dot(b_weights, b_entries, b_out, input_precision="tf32x3")
    b_out /= tl.where(b_total == 0, 1.0, b_total)[:, None]
    p_tile = p_out + o_place[:, None] * D + o_d[None, :]
    tl.store(p_tile, b_out, mask=m_r[:, None] & (o_d < D)[None, :])


@triton.jit
def slopes_kernel(
    p_products,
    p_along,
    p_bias,
    p_valid,
    p_grad_bias,
    scale,
    B,
    M,
    H,
    K,
    BR: tl.constexpr,
    BK: tl.constexpr,
):
    """The gradient of the logits, a_j (s_j - sum_i a_i s_i), over `along`, which holds s_j.

    a is the softmax, s_j = <g, x_j>. That of the bias is its sum over rows, here of BR of them.
    """
    batch, o_r, _, m_r = _rows_of_program(B, M, H, BR)
    b_top = _highest(p_products, p_bias, p_valid, batch, o_r, m_r, K, scale, BK)

    # [BR]: sum of the softmax, and sum_i a_i s_i, both before the division
    b_total = tl.zeros([BR], tl.float32)
    b_mean = tl.zeros([BR], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        m_both = m_r[:, None] & (o_k < K)[None, :]
        b_logits = _logits(p_products, p_bias, p_valid, batch, o_r, m_r, o_k, K, scale)
        b_weights = tl.exp(b_logits - b_top[:, None])
        b_along = tl.load(p_along + o_r[:, None] * K + o_k[None, :], mask=m_both, other=0)
        b_total += tl.sum(b_weights, 1)
        b_mean += tl.sum(b_weights * b_along, 1)
    b_share = tl.where(b_total > 0, 1 / b_total, 0.0)
    b_mean *= b_share

    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        m_both = m_r[:, None] & (o_k < K)[None, :]
        b_logits = _logits(p_products, p_bias, p_valid, batch, o_r, m_r, o_k, K, scale)
        b_weights = tl.exp(b_logits - b_top[:, None]) * b_share[:, None]
        p_tile = p_along + o_r[:, None] * K + o_k[None, :]
        b_slopes = b_weights * (tl.load(p_tile, mask=m_both, other=0) - b_mean[:, None])
        tl.store(p_tile, b_slopes, mask=m_both)
        p_sums = p_grad_bias + tl.program_id(0).to(tl.int64) * K + o_k
        tl.store(p_sums, tl.sum(b_slopes, 0), mask=o_k < K)


@triton.jit
def sum_kernel(
    p_weights,
    p_entries,
    p_out,
    scale,
    B,
    M,
    H,
    K,
    D,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """out = scale sum_j w_j x_j for rows [H, B, M, D], with weights [B, M H, K]."""
    batch, o_r, o_place, m_r = _rows_of_program(B, M, H, BR)
    o_d = tl.program_id(1) * BO + tl.arange(0, BO)

    # [BR, BO]
    b_out = tl.zeros([BR, BO], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        m_both = m_r[:, None] & (o_k < K)[None, :]
        b_weights = tl.load(p_weights + o_r[:, None] * K + o_k[None, :], mask=m_both, other=0)
        b_entries = _load_entries(p_entries, batch, o_k, o_d, K, D)
        b_out = tl.dot(b_weights, b_entries, b_out, input_precision="tf32x3")
    p_tile = p_out + o_place[:, None] * D + o_d[None, :]
    tl.store(p_tile, scale * b_out, mask=m_r[:, None] & (o_d < D)[None, :])


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
    rows, bias = _to_rows(query), bias.contiguous()
    entries, usable = _gather(tokens, indices, valid, lengths, strides, scales)
    products, out = _products(rows, entries), torch.empty_like(rows)
    _launch_sums(attend_kernel, (products, bias, usable, entries), out, scale)
    return _from_rows(out)


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
    rows = _to_rows(query)
    entries, usable = _gather(tokens, indices, valid, lengths, strides, scales)
    products, slopes = _products(rows, entries), _products(_to_rows(grad), entries)
    heads, batch, queries, _ = rows.shape
    kept, blocks = entries.shape[1], triton.cdiv(queries * heads, ROWS)
    grad_bias = bias.new_empty(batch, blocks, kept, dtype=torch.float32)
    triton_support.launch(
        slopes_kernel,
        (batch * blocks,),
        *(products, slopes, bias.contiguous(), usable, grad_bias),
        *(scale, batch, queries, heads, kept),
        BR=ROWS,
        BK=KEYS,
        num_warps=WARPS,
    )
    grad_query = torch.empty_like(rows)
    _launch_sums(sum_kernel, (slopes, entries), grad_query, scale)
    return _from_rows(grad_query), grad_bias.sum(1).to(bias.dtype)


def _to_rows(x: Tensor) -> Tensor:
    """[B, M, H, D] as [H, B, M, D], which the product with a projection's heads is already."""
    return x.permute(2, 0, 1, 3).contiguous()


def _from_rows(rows: Tensor) -> Tensor:
    return rows.permute(1, 2, 0, 3)


def _gather(
    tokens: Tensor,
    indices: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: Sequence[int],
    scales: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Entries of the pyramid [B, k, D] fp32, 0 where not usable, and which are usable [B, k]: the
    valid ones whose index is one of the pyramid's."""
    tokens, (batch, kept), channels = readable(tokens), indices.shape, tokens.shape[3]
    lengths, scales = (x if x is None else x.contiguous() for x in (lengths, scales))
    entries = tokens.new_empty(batch, kept, channels, dtype=torch.float32)
    usable = valid.new_empty(batch, kept)
    triton_support.launch(
        gather_kernel,
        (batch * triton.cdiv(kept, GATHERED), triton.cdiv(channels, CHANNELS)),
        *(tokens, indices.contiguous(), valid.contiguous(), lengths, scales, entries, usable),
        *(tokens.stride(0), *tokens.shape[1:], kept),
        STRIDES=tuple(strides),
        BK=GATHERED,
        BO=CHANNELS,
        num_warps=WARPS,
    )
    return entries, usable


def _products(rows: Tensor, entries: Tensor) -> Tensor:
    """[B, M H, k] fp32 of rows [H, B, M, D] and entries [B, k, D]."""
    heads, batch, queries, channels = rows.shape
    kept = entries.shape[1]
    products = entries.new_empty(batch, queries * heads, kept)
    triton_support.launch(
        products_kernel,
        (batch * triton.cdiv(queries * heads, ROWS), triton.cdiv(kept, KEYS)),
        *(rows, entries, products, batch, queries, heads, kept, channels),
        BR=ROWS,
        BK=KEYS,
        BD=TURN,
        num_warps=WARPS,
    )
    return products


def _launch_sums(kernel: object, weights: tuple[Tensor, ...], out: Tensor, scale: float) -> None:
    """Start a kernel that sums entries, the last of `weights`, into rows `out` [H, B, M, D]."""
    heads, batch, queries, channels = out.shape
    triton_support.launch(
        kernel,
        (batch * triton.cdiv(queries * heads, ROWS), triton.cdiv(channels, OUTPUTS)),
        *(*weights, out, scale, batch, queries, heads, weights[-1].shape[1], channels),
        BR=ROWS,
        BK=KEYS,
        BO=OUTPUTS,
        num_warps=WARPS,
    )
