"""Token pooling in Triton: a program per clip, whose tokens come from memory once.

Fused: scores, the threshold, softmax and the weighted sum. The second pass over a clip reads only
the tokens that carry weight, from cache. At B=8, L=75, P=50, D=768 a 16-bit store is 46 MB, read
once here; the eager formulation reads it, widens it (92 MB written), masks the copy (92 read, 92
written) and reads that twice (184): 506 MB.

The gradient of u is a sum over the tokens of all clips. Their factors are computed first, P numbers
per clip; then a program owns a block of channels and of tokens, and the blocks are added in
a fixed order, without atomics.
"""

# Triton compiles these functions itself: to a type checker neither its blocks nor its constants
# (`tl.constexpr`, `tl.static_range`) are what the kernels use them as.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import triton_support
from sdst.kernels.pyramid_triton import readable, valid_length

WARPS = 4
TILE = 4096  # numbers of a clip in registers at a time
TOKENS = 32  # per turn of the sum
OUTPUTS = 64  # channels per program of the sum
STRETCH = 1024  # tokens per program of the sum


@triton.jit
def to_weights(b_scores, m_p, kept, BP: tl.constexpr):
    """Softmax [BP] over the `kept` largest scores and those equal to the last of them."""
    b_scores = tl.where(m_p, b_scores, float("-inf"))
    b_sorted = tl.sort(b_scores, descending=True)
    threshold = tl.sum(tl.where(tl.arange(0, BP) == kept - 1, b_sorted, 0), 0)
    highest = tl.max(b_scores, 0)
    b_weights = tl.where(m_p & (b_scores >= threshold), tl.exp(b_scores - highest), 0)
    # NaN has no place in an order: all weights of its clip are NaN.
    b_nan = tl.where(m_p & (b_scores != b_scores), 1, 0)
    b_weights = tl.where(tl.max(b_nan, 0) > 0, float("nan"), b_weights)
    return b_weights / tl.sum(tl.where(m_p, b_weights, 0), 0)


@triton.jit
def load_scales(p_scales, clip, o_p, P):
    """The factors of the tokens of a clip of [B, L], [BP]; ones where none are given."""
    if p_scales is None:
        return tl.full(o_p.shape, 1.0, tl.float32)
    else:
        return tl.load(p_scales + clip * P + o_p, mask=o_p < P, other=0)


@triton.jit
def forward_kernel(
    p_tokens,
    p_u,
    p_lengths,
    p_scales,
    p_out,
    token_stride,
    L,
    P,
    D,
    kept,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    """out [B, L, D] = sum_p w_p x_p, 0 in the padding, which is not read."""
    batch = tl.program_id(0).to(tl.int64) // L
    clip = tl.program_id(0).to(tl.int64) % L
    p_tokens += batch * token_stride + clip * P * D
    p_out += (batch * L + clip) * D
    o_p = tl.arange(0, BP)
    m_p = o_p < P

    if clip < valid_length(p_lengths, batch, L):
        # [BP, BD]; summed over the channels at the end, as that passes between threads
        b_products = tl.zeros([BP, BD], tl.float32)
        for d in range(0, D, BD):
            o_d = d + tl.arange(0, BD)
            m_d = o_d < D
            p_rows = p_tokens + o_p[:, None] * D + o_d[None, :]
            b_tokens = tl.load(p_rows, mask=m_p[:, None] & m_d[None, :], other=0).to(tl.float32)
            b_products += b_tokens * tl.load(p_u + batch * D + o_d, mask=m_d, other=0)[None, :]
        # [BP]
        b_scales = load_scales(p_scales, batch * L + clip, o_p, P)
        b_scores = b_scales * tl.sum(b_products, 1)
        b_weights = to_weights(b_scores, m_p, kept, BP) * b_scales
        # Nothing is read for a weight of 0, unless 0 x is NaN.
        m_read = m_p & ((b_weights != 0) | (b_scores == float("-inf")))
        for d in range(0, D, BD):
            o_d = d + tl.arange(0, BD)
            m_rows = m_read[:, None] & (o_d < D)[None, :]
            p_rows = p_tokens + o_p[:, None] * D + o_d[None, :]
            b_tokens = tl.load(p_rows, mask=m_rows, other=0).to(tl.float32)
            b_out = tl.sum(tl.where(m_p[:, None], b_weights[:, None] * b_tokens, 0), 0)
            tl.store(p_out + o_d, b_out, mask=o_d < D)
    else:
        for d in range(0, D, BD):
            o_d = d + tl.arange(0, BD)
            tl.store(p_out + o_d, tl.zeros([BD], tl.float32), mask=o_d < D)


@triton.jit
def backward_factors_kernel(
    p_grad,
    p_tokens,
    p_u,
    p_lengths,
    p_scales,
    p_factors,
    token_stride,
    L,
    P,
    D,
    kept,
    BP: tl.constexpr,
    BD: tl.constexpr,
):
    """ds_p = w_p (t_p - sum_q w_q t_q) with t_p = <x_p, g>: [B, L * P], 0 in the padding.

    What is stored counts times its scale: in the products, and in the sum that follows.
    """
    batch = tl.program_id(0).to(tl.int64) // L
    clip = tl.program_id(0).to(tl.int64) % L
    p_tokens += batch * token_stride + clip * P * D
    p_grad += (batch * L + clip) * D
    p_factors += (batch * L + clip) * P
    o_p = tl.arange(0, BP)
    m_p = o_p < P

    if clip < valid_length(p_lengths, batch, L):
        # [BP, BD]
        b_products = tl.zeros([BP, BD], tl.float32)
        b_along = tl.zeros([BP, BD], tl.float32)
        for d in range(0, D, BD):
            o_d = d + tl.arange(0, BD)
            m_d = o_d < D
            p_rows = p_tokens + o_p[:, None] * D + o_d[None, :]
            b_tokens = tl.load(p_rows, mask=m_p[:, None] & m_d[None, :], other=0).to(tl.float32)
            b_products += b_tokens * tl.load(p_u + batch * D + o_d, mask=m_d, other=0)[None, :]
            b_along += b_tokens * tl.load(p_grad + o_d, mask=m_d, other=0)[None, :]
        # [BP]
        b_scales = load_scales(p_scales, batch * L + clip, o_p, P)
        b_weights = to_weights(b_scales * tl.sum(b_products, 1), m_p, kept, BP)
        b_slope = b_scales * tl.sum(b_along, 1)
        b_factors = b_weights * (b_slope - tl.sum(b_weights * b_slope, 0))
        tl.store(p_factors + o_p, b_scales * b_factors, mask=m_p)
    else:
        tl.store(p_factors + o_p, tl.zeros([BP], tl.float32), mask=m_p)


@triton.jit
def backward_sum_kernel(
    p_factors,
    p_tokens,
    p_sums,
    token_stride,
    N,
    D,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BO: tl.constexpr,
):
    """sums [B, stretches, D] of ds x; tokens whose factor is 0 are not read."""
    stretches = tl.cdiv(N, BN)
    batch = tl.program_id(0).to(tl.int64) // stretches
    first = tl.program_id(0).to(tl.int64) % stretches * BN
    o_d = tl.program_id(1) * BO + tl.arange(0, BO)
    p_tokens += batch * token_stride

    # [BO]
    b_sum = tl.zeros([BO], tl.float32)
    for n in range(0, tl.minimum(BN, N - first), BK):
        o_n = first + n + tl.arange(0, BK)
        b_factors = tl.load(p_factors + batch * N + o_n, mask=o_n < N, other=0)
        m_rows = (b_factors != 0)[:, None] & (o_d < D)[None, :]
        p_rows = p_tokens + o_n[:, None] * D + o_d[None, :]
        b_tokens = tl.load(p_rows, mask=m_rows, other=0).to(tl.float32)
        b_sum += tl.sum(b_factors[:, None] * b_tokens, 0)
    tl.store(p_sums + tl.program_id(0).to(tl.int64) * D + o_d, b_sum, mask=o_d < D)


def forward(
    tokens: Tensor, u: Tensor, kept: int, lengths: Tensor | None, scales: Tensor | None
) -> Tensor:
    """[B, L, D] fp32, see the op."""
    tokens = readable(tokens)
    batch, length, _, channels = tokens.shape
    out = tokens.new_empty(batch, length, channels, dtype=torch.float32)
    _per_clip(forward_kernel, (), tokens, u, kept, lengths, scales, out)
    return out


def backward(
    grad: Tensor,
    tokens: Tensor,
    u: Tensor,
    kept: int,
    lengths: Tensor | None,
    scales: Tensor | None,
) -> Tensor:
    """The gradient of u, in its dtype; grad is that of the output."""
    tokens = readable(tokens)
    batch, length, per_clip, channels = tokens.shape
    count = length * per_clip
    factors = tokens.new_empty(batch, count, dtype=torch.float32)
    inputs = (grad.float().contiguous(),)
    _per_clip(backward_factors_kernel, inputs, tokens, u, kept, lengths, scales, factors)
    stretches = triton.cdiv(count, STRETCH)
    sums = tokens.new_empty(batch, stretches, channels, dtype=torch.float32)
    triton_support.launch(
        backward_sum_kernel,
        (batch * stretches, triton.cdiv(channels, OUTPUTS)),
        *(factors, tokens, sums, tokens.stride(0), count, channels),
        BN=STRETCH,
        BK=TOKENS,
        BO=OUTPUTS,
        num_warps=WARPS,
        num_stages=1,
    )
    return sums.sum(1).to(u.dtype)


def _per_clip(
    kernel: object,
    inputs: tuple[Tensor, ...],
    tokens: Tensor,
    u: Tensor,
    kept: int,
    lengths: Tensor | None,
    scales: Tensor | None,
    out: Tensor,
) -> None:
    batch, length, per_clip, _ = tokens.shape
    block = max(16, triton.next_power_of_2(per_clip))
    triton_support.launch(
        kernel,
        (batch * length,),
        *(*inputs, tokens, u.float().contiguous()),
        *(x if x is None else x.contiguous() for x in (lengths, scales)),
        out,
        *(tokens.stride(0), *tokens.shape[1:], min(kept, per_clip)),
        BP=block,
        BD=max(16, TILE // block),
        num_warps=WARPS,
    )
