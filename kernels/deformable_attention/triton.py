"""Deformable attention in Triton.

Fused: finding the taps, gathering them, interpolating, weighting and summing over the samples. The
eager gather formulation writes and reads tensors of N = B M H S C elements for each of these: per
tap a gather (1 write) and a mask (1 read, 1 write); lerp (2 reads, 1 write); the product with the
weights (1 read, 1 write); the sum (1 read). That is 12 x 4 N bytes, none of which the kernel moves.
At B=32, M=10, H=8, S=4, C=32 in fp32: 15.7 MB saved, 2.9 MB left (`bytes`).

Backward is two kernels without atomics: one gives the gradient of points and weights, a sample at a
time; in the other a program owns a stretch of time of one batch and head, and sums what falls into
it, always in the same order. That sum is a small matrix product: shares [time, queries], built in
registers, times the upstream gradient [queries, channels]. Saved are the three fp32 tensors of N
elements (taps, their mix) that autograd would keep for the eager backward, and its two scatters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import gpu

WARPS = 4
TILE = 512  # elements that a program of the sampling kernels holds: four a thread
OWNED = 2048  # elements of the value's gradient that a program owns: sixteen a thread
WIDEST = 128  # channels per program
QUERIES = 16  # queries whose shares are summed at once, the least that a matrix product takes


@triton.jit
def _tap(clip, share, length):
    """Row to read, its share, and whether to read it; the share is 0 outside of [0, length)."""
    inside = (clip >= 0) & (clip < length)
    # Not ~inside: a point that is NaN is on neither side, and keeps its share, which is NaN.
    outside = (clip < 0) | (clip >= length)
    return tl.where(inside, clip, 0.0).to(tl.int64), tl.where(outside, 0.0, share), inside


@triton.jit
def _taps(point, length):
    """The taps i and i + 1 of x = p L - 0.5, with shares 1 - f and f."""
    x = point * length - 0.5
    i = tl.floor(x)
    left, left_share, left_inside = _tap(i, 1 - (x - i), length)
    right, right_share, right_inside = _tap(i + 1, x - i, length)
    return left, left_share, left_inside, right, right_share, right_inside


@triton.jit
def _valid_length(p_lengths, batch, mask, L):
    """Valid clips of the video of each row, fp32."""
    if p_lengths is None:
        length = tl.zeros_like(batch) + L
    else:
        length = tl.load(p_lengths + batch, mask=mask, other=0)
    return length.to(tl.float32)


@triton.jit
def _load_rows(p_first, row, mask, o_c, m_c, step):
    """[rows, channels] in fp32 from clips `row`, `step` elements apart; 0 where masked."""
    p_rows = p_first[:, None] + row[:, None] * step + o_c[None, :]
    return tl.load(p_rows, mask=mask[:, None] & m_c[None, :], other=0).to(tl.float32)


@triton.jit
def forward_kernel(
    p_value,
    p_points,
    p_weights,
    p_lengths,
    p_out,
    rows,
    L,
    M,
    H,
    C,
    S: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
):
    """A program gives BR rows (batch, query, head) times BC channels of out."""
    o_row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    m_row = o_row < rows
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    batch = o_row // (M * H)
    length = _valid_length(p_lengths, batch, m_row, L)
    p_first = p_value + (batch * L * H + o_row % H) * C

    # [BR, BC]
    b_sum = tl.zeros([BR, BC], tl.float32)
    for s in tl.static_range(S):
        b_point = tl.load(p_points + o_row * S + s, mask=m_row, other=0).to(tl.float32)
        b_weight = tl.load(p_weights + o_row * S + s, mask=m_row, other=0).to(tl.float32)
        left, left_share, m_left, right, right_share, m_right = _taps(b_point, length)
        b_left = _load_rows(p_first, left, m_row & m_left, o_c, m_c, H * C)
        b_right = _load_rows(p_first, right, m_row & m_right, o_c, m_c, H * C)
        b_sum += (b_weight * left_share)[:, None] * b_left
        b_sum += (b_weight * right_share)[:, None] * b_right
    p_rows = p_out + o_row[:, None] * C + o_c[None, :]
    tl.store(p_rows, b_sum, mask=m_row[:, None] & m_c[None, :])


@triton.jit
def backward_samples_kernel(
    p_grad,
    p_value,
    p_points,
    p_weights,
    p_lengths,
    p_grad_points,
    p_grad_weights,
    samples,
    L,
    M,
    H,
    C,
    S,
    BN: tl.constexpr,
    BC: tl.constexpr,
):
    """A program gives dA and dp of BN samples (batch, query, head, s).

    dA = <y, g>    dp = L A <v_{i+1} - v_i, g>
    """
    o_sample = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    m_sample = o_sample < samples
    row = o_sample // S
    batch = row // (M * H)
    length = _valid_length(p_lengths, batch, m_sample, L)
    b_point = tl.load(p_points + o_sample, mask=m_sample, other=0).to(tl.float32)
    b_weight = tl.load(p_weights + o_sample, mask=m_sample, other=0).to(tl.float32)
    left, left_share, m_left, right, right_share, m_right = _taps(b_point, length)
    p_first = p_value + (batch * L * H + row % H) * C

    # [BN], <v_i, g> and <v_{i+1}, g>
    b_left = tl.zeros([BN], tl.float32)
    b_right = tl.zeros([BN], tl.float32)
    for c in range(0, C, BC):
        o_c = c + tl.arange(0, BC)
        m_c = o_c < C
        b_grad = _load_rows(p_grad + row * C, row * 0, m_sample, o_c, m_c, 0)
        b_value = _load_rows(p_first, left, m_sample & m_left, o_c, m_c, H * C)
        b_left += tl.sum(b_value * b_grad, 1)
        b_value = _load_rows(p_first, right, m_sample & m_right, o_c, m_c, H * C)
        b_right += tl.sum(b_value * b_grad, 1)
    b_grad_weight = left_share * b_left + right_share * b_right
    tl.store(p_grad_weights + o_sample, b_grad_weight, mask=m_sample)
    tl.store(p_grad_points + o_sample, length * b_weight * (b_right - b_left), mask=m_sample)


@triton.jit
def backward_value_kernel(
    p_grad,
    p_points,
    p_weights,
    p_lengths,
    p_grad_value,
    L,
    M,
    H,
    C,
    S: tl.constexpr,
    BT: tl.constexpr,
    BM: tl.constexpr,
    BC: tl.constexpr,
):
    """A program gives BT clips times BC channels of one batch and head of dv.

    dv_t = sum_m g_m (sum_s A_s [t = i_s] (1 - f_s) + A_s [t = i_s + 1] f_s)
    """
    stretches = tl.cdiv(L, BT)
    pair = tl.program_id(0).to(tl.int64) // stretches
    batch, head = pair // H, pair % H
    o_t = tl.program_id(0) % stretches * BT + tl.arange(0, BT)
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    m_c = o_c < C
    length = _valid_length(p_lengths, batch, True, L)

    # [BT, BC]
    b_sum = tl.zeros([BT, BC], tl.float32)
    for m in range(0, M, BM):
        o_m = m + tl.arange(0, BM)
        m_m = o_m < M
        row = (batch * M + o_m) * H + head
        # [BT, BM], the share of each query's gradient that falls on each clip
        b_share = tl.zeros([BT, BM], tl.float32)
        for s in tl.static_range(S):
            b_point = tl.load(p_points + row * S + s, mask=m_m, other=0).to(tl.float32)
            b_weight = tl.load(p_weights + row * S + s, mask=m_m, other=0).to(tl.float32)
            left, left_share, m_left, right, right_share, m_right = _taps(b_point, length)
            on_left = m_left[None, :] & (left[None, :] == o_t[:, None])
            on_right = m_right[None, :] & (right[None, :] == o_t[:, None])
            b_share += tl.where(on_left, (b_weight * left_share)[None, :], 0.0)
            b_share += tl.where(on_right, (b_weight * right_share)[None, :], 0.0)
        b_grad = _load_rows(p_grad + row * C, row * 0, m_m, o_c, m_c, 0)
        b_sum = tl.dot(b_share, b_grad, b_sum, input_precision="tf32x3")
    p_rows = p_grad_value + ((batch * L + o_t[:, None]) * H + head) * C + o_c[None, :]
    tl.store(p_rows, b_sum, mask=(o_t < L)[:, None] & m_c[None, :])


def forward(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    """out [B, M, H, C] of the op, in the dtype of value [B, L, H, C]."""
    value, points, weights = value.contiguous(), points.contiguous(), weights.contiguous()
    (_, length, heads, channels), (batch, queries, _, samples) = value.shape, points.shape
    out = value.new_empty(batch, queries, heads, channels)
    rows, tile = batch * queries * heads, _channels(channels)
    gpu.launch(
        forward_kernel,
        (triton.cdiv(rows, TILE // tile), triton.cdiv(channels, tile)),
        *(value, points, weights, _contiguous(lengths), out),
        *(rows, length, queries, heads, channels, samples),
        BR=TILE // tile,
        BC=tile,
        num_warps=WARPS,
    )
    return out


def backward(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, points and weights, each in its dtype; grad is that of out."""
    grad, value = grad.contiguous(), value.contiguous()
    points, weights, lengths = points.contiguous(), weights.contiguous(), _contiguous(lengths)
    (_, length, heads, channels), (batch, queries, _, samples) = value.shape, points.shape
    gradients = tuple(torch.empty_like(x) for x in (value, points, weights))
    tile, sizes = _channels(channels), (length, queries, heads, channels, samples)
    gpu.launch(
        backward_samples_kernel,
        (triton.cdiv(points.numel(), TILE // tile),),
        *(grad, value, points, weights, lengths, *gradients[1:]),
        *(points.numel(), *sizes),
        BN=TILE // tile,
        BC=tile,
        num_warps=WARPS,
    )
    stretch = min(64, OWNED // tile)
    gpu.launch(
        backward_value_kernel,
        (batch * heads * triton.cdiv(length, stretch), triton.cdiv(channels, tile)),
        *(grad, points, weights, lengths, gradients[0]),
        *sizes,
        BT=stretch,
        BM=QUERIES,
        BC=tile,
        num_warps=WARPS,
    )
    return gradients


def _channels(channels: int) -> int:
    """Channels per program: a power of two, no less than a matrix product takes."""
    return min(WIDEST, max(16, triton.next_power_of_2(channels)))


def _contiguous(lengths: Tensor | None) -> Tensor | None:
    return None if lengths is None else lengths.contiguous()
