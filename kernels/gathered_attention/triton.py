"""Gathered attention in Triton.

Fused: the gather, the pyramid's averages, the logits, the bias, the softmax (online) and the
weighted sum. Neither the gathered copy [B, k, D] nor the logits [B, M H, k] exist in memory, and
nothing is kept for the backward. The eager formulation writes the copy in
fp32 and reads it twice, 12 B k D bytes, and passes the logits eight times (product, bias, mask and
softmax read and write, the last product reads), 32 B M H k bytes; its backward does as much again.
A 16-bit store costs it more: windows of W = 8 rows are copied, cast and weighted, 22 W B k D bytes.
At B=8, M=10, H=8, k=64, D=768: 6 MB saved in fp32 and 75 MB in 16 bits; the tokens are 6 and 3.

A program gives BR queries and heads times BO channels of the result. Those that share the queries
compute the same logits again: k D is small enough to stay in the L2 cache, and nothing passes
between programs. Backward passes over the kept tokens twice with the logits computed again, first
for the softmax and its mean, then for the gradients; that of the bias is summed over blocks of
queries in a fixed order: no atomics.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import gpu
from sdst.kernels.pyramid_triton import load_entries, locate, readable, valid_length

WARPS = 8
ROWS = 16  # queries and heads per program
TURN = 32  # kept tokens, and channels of the logits, per turn
TURN_INT8 = 16  # the same of an int8 store: more would spill
OUTPUTS = 128  # channels of the result per program


@triton.jit
def _rows_of_program(B, M, H, BR: tl.constexpr):
    """This program's sample, its rows of [H, B, M], and which of them exist."""
    blocks = tl.cdiv(M * H, BR)
    batch = tl.program_id(0).to(tl.int64) // blocks
    o_r = tl.program_id(0) % blocks * BR + tl.arange(0, BR)
    return batch, (o_r // M * B + batch) * M + o_r % M, o_r < M * H


@triton.jit
def _load_rows(p_rows, o_r, m_r, o_d, D):
    """[rows, channels] in fp32, 0 where masked."""
    m_rows = m_r[:, None] & (o_d < D)[None, :]
    return tl.load(p_rows + o_r[:, None] * D + o_d[None, :], mask=m_rows, other=0).to(tl.float32)


@triton.jit
def _keys(p_indices, p_valid, o_k, K, length, L, P, STRIDES: tl.constexpr):
    """First raw token and number of clips of kept tokens, and which of them take part."""
    m_k = o_k < K
    index = tl.load(p_indices + o_k, mask=m_k, other=0)
    valid = tl.load(p_valid + o_k, mask=m_k, other=0) != 0
    row, clips = locate(index, length, L, P, STRIDES)
    return row, clips, valid


@triton.jit
def _logits(
    p_query,
    p_grad,
    o_r,
    m_r,
    p_tokens,
    p_scales,
    row,
    clips,
    m_k,
    p_bias,
    scale,
    P,
    D,
    BD: tl.constexpr,
):
    """scale <q, x_j> + bias_j, -inf where masked, and <g, x_j> if there is a gradient, [BR, BK]."""
    b_logits = tl.zeros([o_r.shape[0], row.shape[0]], tl.float32)
    b_products = b_logits
    for d in range(0, D, BD):
        o_d = d + tl.arange(0, BD)
        b_keys = tl.trans(load_entries(p_tokens, row, clips, m_k, o_d, P, D, p_scales))
        b_query = _load_rows(p_query, o_r, m_r, o_d, D)
        b_logits = tl.dot(b_query, b_keys, b_logits, input_precision="tf32x3")
        if p_grad is not None:
            b_grad = _load_rows(p_grad, o_r, m_r, o_d, D)
            b_products = tl.dot(b_grad, b_keys, b_products, input_precision="tf32x3")
    b_bias = tl.load(p_bias, mask=m_k, other=0).to(tl.float32)
    b_logits = scale * b_logits + b_bias[None, :]
    return tl.where(m_k[None, :], b_logits, float("-inf")), b_products


@triton.jit
def _advance(b_max, b_logits):
    """Online softmax: the new maximum, what old sums shrink by, and exp(logits - maximum)."""
    b_top = tl.maximum(b_max, tl.max(b_logits, 1))
    # While nothing valid was met the maximum is -inf, and -inf - -inf would be NaN.
    b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
    return b_top, tl.exp(b_max - b_base), tl.exp(b_logits - b_base[:, None])


@triton.jit
def forward_kernel(
    p_query,
    p_tokens,
    p_indices,
    p_bias,
    p_valid,
    p_lengths,
    p_scales,
    p_out,
    scale,
    token_stride,
    L,
    P,
    D,
    B,
    M,
    H,
    K,
    STRIDES: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    BO: tl.constexpr,
):
    """out = sum_j softmax_j(scale <q, x_j> + bias_j) x_j for rows [H, B, M, D]."""
    batch, o_r, m_r = _rows_of_program(B, M, H, BR)
    o_o = tl.program_id(1) * BO + tl.arange(0, BO)
    length = valid_length(p_lengths, batch, L)
    p_tokens += batch * token_stride
    if p_scales is not None:
        p_scales += batch * L * P

    # [BR], [BR], [BR, BO]
    b_max = tl.full([BR], float("-inf"), tl.float32)
    b_sum = tl.zeros([BR], tl.float32)
    b_out = tl.zeros([BR, BO], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        row, clips, m_k = _keys(
            p_indices + batch * K, p_valid + batch * K, o_k, K, length, L, P, STRIDES
        )
        p_biases = p_bias + batch * K + o_k
        b_logits, _ = _logits(
            p_query, None, o_r, m_r, p_tokens, p_scales, row, clips, m_k, p_biases, scale, P, D, BD
        )
        b_max, b_shrink, b_weights = _advance(b_max, b_logits)
        b_sum = b_sum * b_shrink + tl.sum(b_weights, 1)
        b_values = load_entries(p_tokens, row, clips, m_k, o_o, P, D, p_scales)
        b_out = tl.dot(b_weights, b_values, b_out * b_shrink[:, None], input_precision="tf32x3")

    b_out = b_out / tl.where(b_sum == 0, 1.0, b_sum)[:, None]
    p_rows = p_out + o_r[:, None] * D + o_o[None, :]
    tl.store(p_rows, b_out, mask=m_r[:, None] & (o_o < D)[None, :])


@triton.jit
def backward_kernel(
    p_grad,
    p_query,
    p_tokens,
    p_indices,
    p_bias,
    p_valid,
    p_lengths,
    p_scales,
    p_grad_query,
    p_grad_bias,
    scale,
    token_stride,
    L,
    P,
    D,
    B,
    M,
    H,
    K,
    STRIDES: tl.constexpr,
    BR: tl.constexpr,
    BK: tl.constexpr,
    BD: tl.constexpr,
    BO: tl.constexpr,
):
    """With a the softmax, s_j = <g, x_j>, and rows r of queries and heads:

    dlogit_j = a_j (s_j - sum_i a_i s_i)    dq = scale sum_j dlogit_j x_j    dbias = sum_r dlogit
    """
    batch, o_r, m_r = _rows_of_program(B, M, H, BR)
    o_o = tl.program_id(1) * BO + tl.arange(0, BO)
    length = valid_length(p_lengths, batch, L)
    p_tokens += batch * token_stride
    if p_scales is not None:
        p_scales += batch * L * P

    # [BR]: maximum and sum of the softmax, and sum_i a_i s_i before the division
    b_max = tl.full([BR], float("-inf"), tl.float32)
    b_sum = tl.zeros([BR], tl.float32)
    b_mean = tl.zeros([BR], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        row, clips, m_k = _keys(
            p_indices + batch * K, p_valid + batch * K, o_k, K, length, L, P, STRIDES
        )
        p_biases = p_bias + batch * K + o_k
        b_logits, b_products = _logits(
            p_query,
            p_grad,
            o_r,
            m_r,
            p_tokens,
            p_scales,
            row,
            clips,
            m_k,
            p_biases,
            scale,
            P,
            D,
            BD,
        )
        b_max, b_shrink, b_weights = _advance(b_max, b_logits)
        b_sum = b_sum * b_shrink + tl.sum(b_weights, 1)
        b_mean = b_mean * b_shrink + tl.sum(b_weights * b_products, 1)
    b_share = tl.where(m_r & (b_sum > 0), 1 / b_sum, 0.0)
    b_base = tl.where(b_sum > 0, b_max, 0.0)
    b_mean *= b_share

    # [BR, BO]
    b_grad_query = tl.zeros([BR, BO], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        row, clips, m_k = _keys(
            p_indices + batch * K, p_valid + batch * K, o_k, K, length, L, P, STRIDES
        )
        p_biases = p_bias + batch * K + o_k
        b_logits, b_products = _logits(
            p_query,
            p_grad,
            o_r,
            m_r,
            p_tokens,
            p_scales,
            row,
            clips,
            m_k,
            p_biases,
            scale,
            P,
            D,
            BD,
        )
        b_weights = tl.exp(b_logits - b_base[:, None]) * b_share[:, None]
        b_grad_logits = b_weights * (b_products - b_mean[:, None])
        b_values = load_entries(p_tokens, row, clips, m_k, o_o, P, D, p_scales)
        b_grad_query = tl.dot(b_grad_logits, b_values, b_grad_query, input_precision="tf32x3")
        p_sums = p_grad_bias + tl.program_id(0).to(tl.int64) * K + o_k
        tl.store(p_sums, tl.sum(b_grad_logits, 0), mask=(o_k < K) & (tl.program_id(1) == 0))

    p_rows = p_grad_query + o_r[:, None] * D + o_o[None, :]
    tl.store(p_rows, scale * b_grad_query, mask=m_r[:, None] & (o_o < D)[None, :])


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
    keys = (tokens, indices, bias, valid, lengths, scales)
    _launch(forward_kernel, (rows,), keys, (out,), strides, scale)
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
    rows, upstream = _to_rows(query), _to_rows(grad)
    heads, batch, queries, channels = rows.shape
    grad_query = torch.empty_like(rows)
    # One row of bias gradients per block of rows; without channels no program fills them.
    blocks = triton.cdiv(queries * heads, ROWS) if channels else 0
    grad_bias = bias.new_empty(batch, blocks, bias.shape[1], dtype=torch.float32)
    keys = (tokens, indices, bias, valid, lengths, scales)
    _launch(backward_kernel, (upstream, rows), keys, (grad_query, grad_bias), strides, scale)
    return _from_rows(grad_query), grad_bias.sum(1).to(bias.dtype)


def _to_rows(x: Tensor) -> Tensor:
    """[B, M, H, D] as [H, B, M, D], which the product with a projection's heads is already."""
    return x.permute(2, 0, 1, 3).contiguous()


def _from_rows(rows: Tensor) -> Tensor:
    return rows.permute(1, 2, 0, 3)


def _launch(
    kernel: object,
    rows: tuple[Tensor, ...],
    keys: tuple[Tensor | None, ...],
    results: tuple[Tensor, ...],
    strides: Sequence[int],
    scale: float,
) -> None:
    """Start `kernel` over rows [H, B, M, D] and the kept tokens (tokens, indices, bias, ...)."""
    tokens, *others = keys
    tokens = readable(tokens)
    others = [x if x is None else x.contiguous() for x in others]
    heads, batch, queries, channels = rows[0].shape
    tile = min(OUTPUTS, max(16, triton.next_power_of_2(channels)))
    turn = TURN_INT8 if tokens.dtype == torch.int8 else TURN
    gpu.launch(
        kernel,
        (batch * triton.cdiv(queries * heads, ROWS), triton.cdiv(channels, tile)),
        *(*rows, tokens, *others, *results),
        *(scale, tokens.stride(0), *tokens.shape[1:], batch, queries, heads, others[0].shape[1]),
        STRIDES=tuple(strides),
        BR=ROWS,
        BK=turn,
        BD=min(turn, tile),
        BO=tile,
        num_warps=WARPS,
        num_stages=1,
    )
