"""Token selection with the frozen tokens read by Triton, once.

The scoring kernel reads every valid raw token once, accumulates in fp32 and writes one number per
token; the scores of the pyramid are averages of those. What follows, the selection by integer keys
(cuda.py; the reference's where the CUDA library was not built), works on B L P numbers, 1 / D of
what was read, and has the scores of the kept tokens in its keys: the reference gathers and averages
the kept tokens themselves again, a copy of 4 B k D bytes, and for a 16-bit store 22 W B k D bytes
(W = 8 the widest window).
At B=8, P=50, L=75, k=64, D=768: 46 MB (16-bit) are read and nothing else; 69 MB are saved.

The gradient of u is the sum of the kept tokens, read in place, times that of their scores; a
program owns a block of channels, so the order of the sum is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import pyramid, triton_support
from sdst.kernels.pyramid_triton import load_entries, locate, readable, valid_length
from sdst.kernels.select_tokens import cuda, reference

WARPS = 4
TOKENS = 16  # per program of the scoring
CHANNELS = 128  # per turn of the scoring
KEYS = 32  # kept tokens per turn of the backward
OUTPUTS = 64  # channels per program of the backward


@triton.jit
def score_kernel(
    p_tokens,
    p_u,
    p_lengths,
    p_scales,
    p_scores,
    token_stride,
    L,
    P,
    D,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """scores [B, L * P] = <x, u>, 0 in the padding, which is not read."""
    blocks = tl.cdiv(L * P, BN)
    batch = tl.program_id(0).to(tl.int64) // blocks
    o_n = tl.program_id(0).to(tl.int64) % blocks * BN + tl.arange(0, BN)
    m_n = o_n < valid_length(p_lengths, batch, L) * P
    p_tokens += batch * token_stride

    # [BN, BD]; summed over the channels at the end, as that passes between threads
    b_products = tl.zeros([BN, BD], tl.float32)
    for d in range(0, D, BD):
        o_d = d + tl.arange(0, BD)
        m_d = o_d < D
        p_rows = p_tokens + o_n[:, None] * D + o_d[None, :]
        b_tokens = tl.load(p_rows, mask=m_n[:, None] & m_d[None, :], other=0).to(tl.float32)
        b_u = tl.load(p_u + batch * D + o_d, mask=m_d, other=0).to(tl.float32)
        b_products += b_tokens * b_u[None, :]
    b_scores = tl.sum(b_products, 1)
    if p_scales is not None:
        b_scores *= tl.load(p_scales + batch * L * P + o_n, mask=m_n, other=0)
    tl.store(p_scores + batch * L * P + o_n, b_scores, mask=o_n < L * P)


@triton.jit
def backward_kernel(
    p_grad,
    p_tokens,
    p_indices,
    p_valid,
    p_lengths,
    p_scales,
    p_grad_u,
    token_stride,
    L,
    P,
    D,
    K,
    STRIDES: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """du = sum_j g_j x_j over the kept tokens."""
    batch = tl.program_id(0).to(tl.int64)
    o_d = tl.program_id(1) * BO + tl.arange(0, BO)
    length = valid_length(p_lengths, batch, L)
    p_tokens += batch * token_stride
    if p_scales is not None:
        p_scales += batch * L * P

    # [BO]
    b_sum = tl.zeros([BO], tl.float32)
    for k in range(0, K, BK):
        o_k = k + tl.arange(0, BK)
        m_k = o_k < K
        b_index = tl.load(p_indices + batch * K + o_k, mask=m_k, other=0)
        m_k &= tl.load(p_valid + batch * K + o_k, mask=m_k, other=0) != 0
        b_grad = tl.load(p_grad + batch * K + o_k, mask=m_k, other=0).to(tl.float32)
        row, clips, found = locate(b_index, length, L, P, STRIDES)
        m_k &= found
        b_tokens = load_entries(p_tokens, row, clips, m_k, o_d, P, D, p_scales)
        b_sum += tl.sum(b_grad[:, None] * b_tokens, 0)
    tl.store(p_grad_u + batch * D + o_d, b_sum, mask=o_d < D)


def forward(
    tokens: Tensor,
    u: Tensor,
    k: int,
    lengths: Tensor | None,
    strides: Sequence[int],
    segments: int,
    scales: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """scores, indices and valid [B, k] of the op."""
    raw = token_scores(tokens, u, lengths, scales)
    if not cuda.unsupported_reasons(raw, strides):
        return cuda.select(raw, k, lengths, strides, segments)
    lengths = pyramid.valid_lengths(tokens, lengths)
    indices, valid = reference.select(raw, k, lengths, strides, segments)
    rows, weights = pyramid.entries(tokens, indices, lengths, strides)
    scores = (raw.flatten()[rows] * weights).sum(-1)
    return scores.masked_fill(~valid, 0), indices, valid


def backward(
    grad: Tensor,
    tokens: Tensor,
    indices: Tensor,
    valid: Tensor,
    lengths: Tensor | None,
    strides: Sequence[int],
    scales: Tensor | None,
) -> Tensor:
    """Gradient of u [B, D], fp32; grad is that of the scores."""
    tokens = readable(tokens)
    batch, _, _, channels = tokens.shape
    tensors = [x if x is None else x.contiguous() for x in (indices, valid, lengths, scales)]
    out = tokens.new_empty(batch, channels, dtype=torch.float32)
    triton_support.launch(
        backward_kernel,
        (batch, triton.cdiv(channels, OUTPUTS)),
        *(grad.contiguous(), tokens, *tensors, out),
        *(tokens.stride(0), *tokens.shape[1:], indices.shape[1]),
        STRIDES=tuple(strides),
        BK=KEYS,
        BO=OUTPUTS,
        num_warps=WARPS,
        num_stages=1,
    )
    return out


def token_scores(
    tokens: Tensor, u: Tensor, lengths: Tensor | None, scales: Tensor | None
) -> Tensor:
    """<x, u> of every raw token [B, L, P], fp32, 0 in the padding; one pass over the tokens."""
    tokens = readable(tokens)
    batch, length, per_clip, _ = tokens.shape
    scores = tokens.new_empty(batch, length, per_clip, dtype=torch.float32)
    triton_support.launch(
        score_kernel,
        (batch * triton.cdiv(length * per_clip, TOKENS),),
        *(tokens, u.contiguous()),
        *(x if x is None else x.contiguous() for x in (lengths, scales)),
        *(scores, tokens.stride(0), *tokens.shape[1:]),
        BN=TOKENS,
        BD=CHANNELS,
        num_warps=WARPS,
    )
    return scores
