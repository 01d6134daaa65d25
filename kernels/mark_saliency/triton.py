"""Marking by saliency in Triton: a program per video, which reads it twice, the second time from
cache.

The first pass sums up mean and variance of the cosines, the second computes them again beside what
it writes, so that nothing is exchanged through memory. A program would read a long video alone:
from LONG clips on, one kernel computes the cosines and another one marks, a program per block.

The gradient of c is a sum over all clips: a program sums a part of them, and the parts are
added in a fixed order, without atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import triton_support
from sdst.kernels.pyramid_triton import readable, valid_length

WARPS = 4
TILE = 4096  # numbers of a video in registers at a time
LONG = 512  # clips from which a video is shared by several programs
SCORES = 1024  # cosines of a long video in registers at a time
STRETCH = 64  # clips per program of the sum


@triton.jit
def load_unit(p_sentence, o_f, F):
    """A sentence [BF] with norm 1."""
    b_sentence = tl.load(p_sentence + o_f, mask=o_f < F, other=0).to(tl.float32)
    return b_sentence / tl.maximum(tl.sqrt(tl.sum(b_sentence * b_sentence, 0)), 1e-12)


@triton.jit
def load_clips(p_dense, o_t, o_f, end, F):
    """[BT, BF] in fp32; 0 from clip `end` on."""
    m_clips = (o_t < end)[:, None] & (o_f < F)[None, :]
    p_clips = p_dense + o_t.to(tl.int64)[:, None] * F + o_f[None, :]
    return tl.load(p_clips, mask=m_clips, other=0).to(tl.float32)


@triton.jit
def cosines(b_clips, b_unit):
    """[BT] of clips [BT, BF] with a vector of norm 1."""
    b_norms = tl.maximum(tl.sqrt(tl.sum(b_clips * b_clips, 1)), 1e-12)
    return tl.sum(b_clips * b_unit[None, :], 1) / b_norms


@triton.jit
def merge(b_scores, m_t, seen, count, mean, squares):
    """Mean and sum of squared deviations of `seen` values, with `count` more [BT] among them.

    [Chan, Golub and LeVeque, 1983]
    """
    b_mean = tl.sum(tl.where(m_t, b_scores, 0), 0) / count
    b_centred = tl.where(m_t, b_scores - b_mean, 0)
    apart = b_mean - mean
    share = count / (seen + count)
    squares += tl.sum(b_centred * b_centred, 0) + apart * apart * seen * share
    return mean + apart * share, squares


@triton.jit
def inverse_deviation(squares, length):
    """The factor of centred cosines; 0 for a single clip, whose mean may be rounded."""
    scale = 1 / tl.sqrt(squares / tl.maximum(length, 1) + 1e-6)
    return tl.where(length > 1, scale, 0)


@triton.jit
def store_marked(p_out, p_z, b_clips, b_z, b_direction, o_t, o_f, L, F):
    """D + z c, and z."""
    m_clips = (o_t < L)[:, None] & (o_f < F)[None, :]
    p_clips = p_out + o_t.to(tl.int64)[:, None] * F + o_f[None, :]
    b_out = b_clips + b_z[:, None] * b_direction[None, :]
    tl.store(p_clips, b_out.to(p_out.dtype.element_ty), mask=m_clips)
    tl.store(p_z + o_t, b_z, mask=o_t < L)


@triton.jit
def forward_kernel(
    p_dense,
    p_sentence,
    p_direction,
    p_lengths,
    p_out,
    p_z,
    dense_stride,
    sentence_stride,
    L,
    F,
    BT: tl.constexpr,
    BF: tl.constexpr,
):
    """out [B, L, F] and z [B, L] of whole videos."""
    batch = tl.program_id(0).to(tl.int64)
    p_dense += batch * dense_stride
    length = valid_length(p_lengths, batch, L)
    o_f = tl.arange(0, BF)
    b_unit = load_unit(p_sentence + batch * sentence_stride, o_f, F)

    mean, squares = 0.0, 0.0
    for t in range(0, length, BT):
        o_t = t + tl.arange(0, BT)
        b_scores = cosines(load_clips(p_dense, o_t, o_f, length, F), b_unit)
        count = tl.minimum(length - t, BT)
        mean, squares = merge(b_scores, o_t < length, t, count, mean, squares)
    scale = inverse_deviation(squares, length)

    b_direction = tl.load(p_direction + o_f, mask=o_f < F, other=0).to(tl.float32)
    for t in range(0, L, BT):
        o_t = t + tl.arange(0, BT)
        b_clips = load_clips(p_dense, o_t, o_f, L, F)
        b_z = tl.where(o_t < length, (cosines(b_clips, b_unit) - mean) * scale, 0)
        p_rows, p_row = p_out + batch * L * F, p_z + batch * L
        store_marked(p_rows, p_row, b_clips, b_z, b_direction, o_t, o_f, L, F)


@triton.jit
def scores_kernel(
    p_dense,
    p_sentence,
    p_lengths,
    p_scores,
    dense_stride,
    sentence_stride,
    L,
    F,
    BT: tl.constexpr,
    BF: tl.constexpr,
):
    """Cosines [B, L] of a block of clips with their sentence; 0 beyond the lengths."""
    blocks = tl.cdiv(L, BT)
    batch = tl.program_id(0).to(tl.int64) // blocks
    o_t = tl.program_id(0) % blocks * BT + tl.arange(0, BT)
    o_f = tl.arange(0, BF)
    b_unit = load_unit(p_sentence + batch * sentence_stride, o_f, F)
    length = valid_length(p_lengths, batch, L)
    b_clips = load_clips(p_dense + batch * dense_stride, o_t, o_f, length, F)
    tl.store(p_scores + batch * L + o_t, cosines(b_clips, b_unit), mask=o_t < L)


@triton.jit
def mark_kernel(
    p_dense,
    p_scores,
    p_direction,
    p_lengths,
    p_out,
    p_z,
    dense_stride,
    L,
    F,
    BT: tl.constexpr,
    BF: tl.constexpr,
    BS: tl.constexpr,
):
    """out [B, L, F] and z [B, L] of a block of clips; mean and deviation of all of the video's."""
    blocks = tl.cdiv(L, BT)
    batch = tl.program_id(0).to(tl.int64) // blocks
    p_scores += batch * L
    length = valid_length(p_lengths, batch, L)
    mean, squares = 0.0, 0.0
    for t in range(0, length, BS):
        o_s = t + tl.arange(0, BS)
        b_scores = tl.load(p_scores + o_s, mask=o_s < length, other=0)
        count = tl.minimum(length - t, BS)
        mean, squares = merge(b_scores, o_s < length, t, count, mean, squares)
    scale = inverse_deviation(squares, length)

    o_t = tl.program_id(0) % blocks * BT + tl.arange(0, BT)
    o_f = tl.arange(0, BF)
    b_scores = tl.load(p_scores + o_t, mask=o_t < length, other=0)
    b_z = tl.where(o_t < length, (b_scores - mean) * scale, 0)
    b_direction = tl.load(p_direction + o_f, mask=o_f < F, other=0).to(tl.float32)
    b_clips = load_clips(p_dense + batch * dense_stride, o_t, o_f, L, F)
    p_rows, p_row = p_out + batch * L * F, p_z + batch * L
    store_marked(p_rows, p_row, b_clips, b_z, b_direction, o_t, o_f, L, F)


@triton.jit
def backward_kernel(
    p_grad, p_z, p_sums, N, F, BN: tl.constexpr, BT: tl.constexpr, BF: tl.constexpr
):
    """sums [stretches, F] of z g over N clips; those with z = 0 are not read."""
    first = tl.program_id(0).to(tl.int64) * BN
    o_f = tl.arange(0, BF)
    # [BT, BF]
    b_sum = tl.zeros([BT, BF], tl.float32)
    for n in range(0, BN, BT):
        o_n = first + n + tl.arange(0, BT)
        b_z = tl.load(p_z + o_n, mask=o_n < N, other=0)
        m_rows = (b_z != 0)[:, None] & (o_f < F)[None, :]
        p_rows = p_grad + o_n[:, None] * F + o_f[None, :]
        b_sum += b_z[:, None] * tl.load(p_rows, mask=m_rows, other=0).to(tl.float32)
    p_row = p_sums + tl.program_id(0).to(tl.int64) * F + o_f
    tl.store(p_row, tl.sum(b_sum, 0), mask=o_f < F)


def forward(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """out [B, L, F] in the dtype of dense and z [B, L] fp32, see the op."""
    batch, length, width = dense.shape
    dense, direction = readable(dense), direction.contiguous()
    sentence = sentence if sentence.stride(1) == 1 else sentence.contiguous()
    lengths = lengths if lengths is None else lengths.contiguous()
    out = dense.new_empty(dense.shape)
    z = dense.new_empty(batch, length, dtype=torch.float32)
    sizes, blocks = (length, width), _blocks(width)
    if length < LONG:
        triton_support.launch(
            forward_kernel,
            (batch if length else 0,),
            *(dense, sentence, direction, lengths, out, z),
            *(dense.stride(0), sentence.stride(0), *sizes),
            **blocks,
        )
        return out, z
    scores = torch.empty_like(z)
    grid = (batch * triton.cdiv(length, blocks["BT"]),)
    strides = (dense.stride(0), sentence.stride(0))
    triton_support.launch(
        scores_kernel, grid, dense, sentence, lengths, scores, *strides, *sizes, **blocks
    )
    marked = (dense, scores, direction, lengths, out, z, dense.stride(0), *sizes)
    triton_support.launch(mark_kernel, grid, *marked, BS=SCORES, **blocks)
    return out, z


def backward(grad: Tensor, z: Tensor) -> Tensor:
    """The gradient of the direction [F] fp32; grad [B, L, F] is that of the output."""
    count, width = z.numel(), grad.shape[-1]
    stretches = triton.cdiv(count, STRETCH)
    sums = z.new_empty(stretches, width)
    arguments = (grad.contiguous(), z, sums, count, width)
    triton_support.launch(backward_kernel, (stretches,), *arguments, BN=STRETCH, **_blocks(width))
    return sums.sum(0)


def _blocks(width: int) -> dict[str, int]:
    """Clips and channels of a tile, which holds whole clips, and the warps that share it."""
    channels = max(16, triton.next_power_of_2(width))
    clips = min(STRETCH, max(1, TILE // channels))
    return {"BT": clips, "BF": channels, "num_warps": WARPS}
