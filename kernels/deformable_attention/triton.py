"""Deformable attention in Triton.

Fused: points from references and offsets, weights from logits, finding the taps, gathering them,
interpolating, weighting and summing over the samples. Around the samples the eager formulation
writes and reads tensors of N = B M H S C elements: per tap a gather (1 write) and a mask (1 read, 1
write); lerp (2 reads, 1 write); the product with the weights (1 read, 1 write); the sum (1 read).
That is 12 x 4 N bytes, none of which the kernel moves. Scaling the offsets, adding the centre and
the softmax each read and write N / C elements: 6 x 4 N / C more. At B=32, M=10, H=8, S=4, C=32 in
fp32: 15.7 + 0.25 MB and seven launches saved, 2.9 MB left (`bytes`).

Backward is two kernels without atomics: one gives the gradient of references, offsets and logits, a
head of a query at a time; in the other a program owns a span of time of one batch and head, and
sums what falls into it, always in the same order. That sum is a small matrix product: shares [time,
queries], built in registers, times the upstream gradient [queries, channels]. Saved are the three
fp32 tensors of N elements (taps, their mix) that autograd would keep for the eager backward, and
its two scatters; points and weights are not kept either, but found again.
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

WARPS = 4
TILE = 512  # elements that a program of the sampling kernels holds: four a thread
OWNED = 2048  # elements of the value's gradient that a program owns: sixteen a thread
WIDEST = 128  # channels per program
QUERIES = 16  # queries whose shares are summed at once, the least that a matrix multiply takes


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
    length = tl.zeros_like(batch).to(tl.float32) + L
    if p_lengths is not None:
        stated = tl.load(p_lengths + batch, mask=mask, other=0)
        length = tl.minimum(length, tl.maximum(stated, 0).to(tl.float32))
    return length


@triton.jit
def _reference(p_references, query, mask):
    """Centre and width of each query, fp32."""
    center = tl.load(p_references + 2 * query, mask=mask, other=0).to(tl.float32)
    width = tl.load(p_references + 2 * query + 1, mask=mask, other=0).to(tl.float32)
    return center, width


@triton.jit
def _scalars(p_first, o, mask):
    return tl.load(p_first + o, mask=mask, other=0).to(tl.float32)


@triton.jit
def _normalizer(p_logits, row, mask, S: tl.constexpr):
    """Of each row's S logits the greatest, and the sum of their exponentials over its own."""
    b_top = _scalars(p_logits, row * S, mask)
    for s in tl.static_range(1, S):
        b_top = tl.maximum(b_top, _scalars(p_logits, row * S + s, mask))
    b_total = tl.zeros_like(b_top)
    for s in tl.static_range(S):
        b_total += tl.exp(_scalars(p_logits, row * S + s, mask) - b_top)
    return b_top, b_total


@triton.jit
def _load_rows(p_first, row, mask, o_c, m_c, step):
    """[rows, channels] in fp32 from clips `row`, `step` elements apart; 0 where masked."""
    p_rows = p_first[:, None] + row[:, None] * step + o_c[None, :]
    return tl.load(p_rows, mask=mask[:, None] & m_c[None, :], other=0).to(tl.float32)


@triton.jit
def forward_kernel(
    p_value,
    p_references,
    p_offsets,
    p_logits,
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
    center, width = _reference(p_references, o_row // H, m_row)
    b_top, b_total = _normalizer(p_logits, o_row, m_row, S)
    p_first = p_value + (batch * L * H + o_row % H) * C

    # [BR, BC]
    b_sum = tl.zeros([BR, BC], tl.float32)
    for s in tl.static_range(S):
        b_point = center + _scalars(p_offsets, o_row * S + s, m_row) * (width / 2)
        b_weight = tl.exp(_scalars(p_logits, o_row * S + s, m_row) - b_top) / b_total
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
    p_references,
    p_offsets,
    p_logits,
    p_lengths,
    p_grad_references,
    p_grad_offsets,
    p_grad_logits,
    rows,
    L,
    M,
    H,
    C,
    S,
    BR: tl.constexpr,
    BS: tl.constexpr,
    BC: tl.constexpr,
):
    """A program gives the gradients of all S <= BS samples of BR rows (batch, query, head).

    dA = <y, g>    dlogit = A (dA - sum A dA)    dp = L A <v_{i+1} - v_i, g>
    doffset = dp width / 2    dcenter = sum dp    dwidth = sum dp offset / 2
    """
    # [BR BS], the samples of a row beside each other
    o_row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR * BS) // BS
    o_s = tl.arange(0, BR * BS) % BS
    o_sample = row * S + o_s
    m_sample = (row < rows) & (o_s < S)
    batch = row // (M * H)
    length = _valid_length(p_lengths, batch, m_sample, L)
    center, width = _reference(p_references, row // H, m_sample)
    b_offset = _scalars(p_offsets, o_sample, m_sample)
    taps = _taps(center + b_offset * (width / 2), length)
    left, left_share, m_left, right, right_share, m_right = taps
    p_first = p_value + (batch * L * H + row % H) * C

    # [BR, BS], points beyond S have no weight
    b_logit = tl.where(o_s < S, _scalars(p_logits, o_sample, m_sample), float("-inf"))
    b_logit = tl.reshape(b_logit, [BR, BS])
    b_exp = tl.exp(b_logit - tl.max(b_logit, 1)[:, None])
    b_weight = b_exp / tl.sum(b_exp, 1)[:, None]

    # [BR BS], <v_i, g> and <v_{i+1}, g>
    b_left = tl.zeros([BR * BS], tl.float32)
    b_right = tl.zeros([BR * BS], tl.float32)
    for c in range(0, C, BC):
        o_c = c + tl.arange(0, BC)
        m_c = o_c < C
        b_grad = _load_rows(p_grad + row * C, row * 0, m_sample, o_c, m_c, 0)
        b_value = _load_rows(p_first, left, m_sample & m_left, o_c, m_c, H * C)
        b_left += tl.sum(b_value * b_grad, 1)
        b_value = _load_rows(p_first, right, m_sample & m_right, o_c, m_c, H * C)
        b_right += tl.sum(b_value * b_grad, 1)

    b_grad_weight = tl.reshape(left_share * b_left + right_share * b_right, [BR, BS])
    b_mean = tl.sum(b_weight * b_grad_weight, 1)
    b_grad_logit = b_weight * (b_grad_weight - b_mean[:, None])
    b_grad_point = length * tl.reshape(b_weight, [BR * BS]) * (b_right - b_left)
    b_grad_center = tl.sum(tl.reshape(b_grad_point, [BR, BS]), 1)
    b_grad_width = tl.sum(tl.reshape(b_grad_point * b_offset / 2, [BR, BS]), 1)
    tl.store(p_grad_offsets + o_sample, b_grad_point * width / 2, mask=m_sample)
    tl.store(p_grad_logits + o_sample, tl.reshape(b_grad_logit, [BR * BS]), mask=m_sample)
    tl.store(p_grad_references + 2 * o_row, b_grad_center, mask=o_row < rows)
    tl.store(p_grad_references + 2 * o_row + 1, b_grad_width, mask=o_row < rows)


@triton.jit
def backward_value_kernel(
    p_grad,
    p_references,
    p_offsets,
    p_logits,
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
        center, width = _reference(p_references, batch * M + o_m, m_m)
        b_top, b_total = _normalizer(p_logits, row, m_m, S)
        # [BT, BM], the share of each query's gradient that falls on each clip
        b_share = tl.zeros([BT, BM], tl.float32)
        for s in tl.static_range(S):
            b_point = center + _scalars(p_offsets, row * S + s, m_m) * (width / 2)
            b_weight = tl.exp(_scalars(p_logits, row * S + s, m_m) - b_top) / b_total
            left, left_share, m_left, right, right_share, m_right = _taps(b_point, length)
            on_left = m_left[None, :] & (left[None, :] == o_t[:, None])
            on_right = m_right[None, :] & (right[None, :] == o_t[:, None])
            b_share += tl.where(on_left, (b_weight * left_share)[None, :], 0.0)
            b_share += tl.where(on_right, (b_weight * right_share)[None, :], 0.0)
        b_grad = _load_rows(p_grad + row * C, row * 0, m_m, o_c, m_c, 0)
        b_sum = tl.dot(b_share, b_grad, b_sum, input_precision="tf32x3")
    p_rows = p_grad_value + ((batch * L + o_t[:, None]) * H + head) * C + o_c[None, :]
    tl.store(p_rows, b_sum, mask=(o_t < L)[:, None] & m_c[None, :])


def forward(
    value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor, lengths: Tensor | None
) -> Tensor:
    """out [B, M, H, C] of the op, in the dtype of value [B, L, H, C]."""
    inputs = _contiguous(value, references, offsets, logits, lengths)
    (_, length, heads, channels), (batch, queries, _, samples) = value.shape, offsets.shape
    out = value.new_empty(batch, queries, heads, channels)
    rows, tile = batch * queries * heads, _channels(channels)
    triton_support.launch(
        forward_kernel,
        (triton.cdiv(rows, TILE // tile), triton.cdiv(channels, tile)),
        *(*inputs, out),
        *(rows, length, queries, heads, channels, samples),
        BR=TILE // tile,
        BC=tile,
        num_warps=WARPS,
    )
    return out


def backward(
    grad: Tensor,
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, references (of every head, [B, M, H, 2] fp32), offsets and logits."""
    inputs = _contiguous(grad, value, references, offsets, logits, lengths)
    (_, length, heads, channels), (batch, queries, _, samples) = value.shape, offsets.shape
    grad_value = value.new_empty(value.shape)
    grad_samples = (
        value.new_empty(batch, queries, heads, 2, dtype=torch.float32),
        offsets.new_empty(offsets.shape),
        logits.new_empty(logits.shape),
    )
    tile, sizes = _channels(channels), (length, queries, heads, channels, samples)
    rows, each = batch * queries * heads, triton.next_power_of_2(samples)
    at_once = max(1, TILE // tile // each)
    triton_support.launch(
        backward_samples_kernel,
        (triton.cdiv(rows, at_once),),
        *(*inputs, *grad_samples),
        *(rows, *sizes),
        BR=at_once,
        BS=each,
        BC=tile,
        num_warps=WARPS,
    )
    stretch = min(64, OWNED // tile)
    triton_support.launch(
        backward_value_kernel,
        (batch * heads * triton.cdiv(length, stretch), triton.cdiv(channels, tile)),
        *(inputs[0], *inputs[2:], grad_value),
        *sizes,
        BT=stretch,
        BM=QUERIES,
        BC=tile,
        num_warps=WARPS,
    )
    return grad_value, *grad_samples


def _channels(channels: int) -> int:
    """Channels per program: a power of two, no less than a matrix product takes."""
    return min(WIDEST, max(16, triton.next_power_of_2(channels)))


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]
