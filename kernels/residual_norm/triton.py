"""Residuals in Triton: a program per block of rows, which it reads once.

The backward pass makes the sum again from x and branch, and the random numbers from the seed, so
that the forward pass writes nothing but its result and two numbers a row. The gradients of weight
and bias are sums over all rows: a program sums a part of them, and the parts are added in a
fixed order, without atomics.
"""

# What is defined where there is a seed is used where there is one, which a type checker cannot see.
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdst.kernels import triton_support
from sdst.kernels.pyramid_triton import readable
from sdst.kernels.residual_norm.reference import EPSILON, dropping, result_dtype

WARPS = 4
TILE = 2048  # numbers of a block in registers at a time
STRETCH = 32  # rows per program of the backward pass


@triton.jit
def numbers(place, low, high):
    """A number in [0, 2^32) for each place, uint32: as kernels/dropout/reference.py."""
    x = place.to(tl.uint32) * 0x9E3779B1 + low
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ high
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def load_rows(p_rows, o_start, o_f, m_rows):
    """[BT, BF] in fp32 from where each row starts; 0 where masked."""
    return tl.load(p_rows + o_start[:, None] + o_f[None, :], mask=m_rows, other=0).to(tl.float32)


@triton.jit
def load_factors(p_seed, o_row, o_f, L, F, dropout, drop_path, factor):
    """The factor of each element of the branch, [BT, BF]: 0 or `factor`."""
    seed = tl.load(p_seed).to(tl.uint64)
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    kept = numbers(o_row[:, None] * F + o_f[None, :], low, high) >= dropout
    kept &= (numbers(o_row // L, high, low) >= drop_path)[:, None]
    return tl.where(kept, factor, 0.0)


@triton.jit
def forward_kernel(
    p_x,
    p_branch,
    p_weight,
    p_bias,
    p_seed,
    p_out,
    p_mean,
    p_scale,
    x_stride,
    N,
    L,
    F,
    dropout,
    drop_path,
    factor,
    EPSILON: tl.constexpr,
    BT: tl.constexpr,
    BF: tl.constexpr,
):
    """out [N, F], mean and scale [N] of a block of the N = B L rows."""
    o_row = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    o_f = tl.arange(0, BF)
    m_rows = (o_row < N)[:, None] & (o_f < F)[None, :]
    # [BT, BF]
    b_sum = load_rows(p_branch, o_row * F, o_f, m_rows)
    if p_seed is not None:
        b_factors = load_factors(p_seed, o_row, o_f, L, F, dropout, drop_path, factor)
        b_sum = tl.where(b_factors == 0, 0, b_sum * b_factors)
    b_sum += load_rows(p_x, o_row // L * x_stride + o_row % L * F, o_f, m_rows)

    b_mean = tl.sum(b_sum, 1) / F
    b_centred = tl.where(m_rows, b_sum - b_mean[:, None], 0)
    b_scale = 1 / tl.sqrt(tl.sum(b_centred * b_centred, 1) / F + EPSILON)
    b_weight = tl.load(p_weight + o_f, mask=o_f < F, other=0).to(tl.float32)
    b_bias = tl.load(p_bias + o_f, mask=o_f < F, other=0).to(tl.float32)
    b_out = b_centred * b_scale[:, None] * b_weight[None, :] + b_bias[None, :]
    p_rows = p_out + o_row[:, None] * F + o_f[None, :]
    tl.store(p_rows, b_out.to(p_out.dtype.element_ty), mask=m_rows)
    tl.store(p_mean + o_row, b_mean, mask=o_row < N)
    tl.store(p_scale + o_row, b_scale, mask=o_row < N)


@triton.jit
def backward_kernel(
    p_grad,
    p_x,
    p_branch,
    p_weight,
    p_mean,
    p_scale,
    p_seed,
    p_grad_x,
    p_grad_branch,
    p_sums,
    x_stride,
    N,
    L,
    F,
    dropout,
    drop_path,
    factor,
    BN: tl.constexpr,
    BT: tl.constexpr,
    BF: tl.constexpr,
):
    """Gradients of x and branch [N, F], and sums [stretches, 2, F] for those of weight and bias."""
    first = tl.program_id(0).to(tl.int64) * BN
    o_f = tl.arange(0, BF)
    b_weight = tl.load(p_weight + o_f, mask=o_f < F, other=0).to(tl.float32)
    # [BT, BF]
    b_weight_sum = tl.zeros([BT, BF], tl.float32)
    b_bias_sum = tl.zeros([BT, BF], tl.float32)
    for n in range(0, BN, BT):
        o_row = first + n + tl.arange(0, BT)
        m_rows = (o_row < N)[:, None] & (o_f < F)[None, :]
        b_normal = load_rows(p_branch, o_row * F, o_f, m_rows)
        if p_seed is not None:
            b_factors = load_factors(p_seed, o_row, o_f, L, F, dropout, drop_path, factor)
            b_normal = tl.where(b_factors == 0, 0, b_normal * b_factors)
        b_normal += load_rows(p_x, o_row // L * x_stride + o_row % L * F, o_f, m_rows)
        b_mean = tl.load(p_mean + o_row, mask=o_row < N, other=0)
        b_scale = tl.load(p_scale + o_row, mask=o_row < N, other=0)
        b_normal = tl.where(m_rows, (b_normal - b_mean[:, None]) * b_scale[:, None], 0)

        b_grad = load_rows(p_grad, o_row * F, o_f, m_rows)
        b_weight_sum += b_grad * b_normal
        b_bias_sum += b_grad
        b_grad *= b_weight[None, :]
        b_level, b_along = tl.sum(b_grad, 1) / F, tl.sum(b_grad * b_normal, 1) / F
        b_grad -= b_level[:, None] + b_normal * b_along[:, None]
        b_grad *= b_scale[:, None]
        p_rows = o_row[:, None] * F + o_f[None, :]
        tl.store(p_grad_x + p_rows, b_grad.to(p_grad_x.dtype.element_ty), mask=m_rows)
        if p_seed is not None:
            b_grad = tl.where(b_factors == 0, 0, b_grad * b_factors)
        tl.store(p_grad_branch + p_rows, b_grad.to(p_grad_branch.dtype.element_ty), mask=m_rows)
    p_row = p_sums + tl.program_id(0).to(tl.int64) * 2 * F + o_f
    tl.store(p_row, tl.sum(b_weight_sum, 0), mask=o_f < F)
    tl.store(p_row + F, tl.sum(b_bias_sum, 0), mask=o_f < F)


def forward(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropout: float,
    drop_path: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, L, F], and every row's mean and inverse deviation [B, L] fp32, see the op."""
    batch, length, width = x.shape
    x, branch = readable(x), branch.contiguous()
    out = x.new_empty(x.shape, dtype=result_dtype(x, branch, weight))
    mean = x.new_empty(batch, length, dtype=torch.float32)
    scale, blocks = torch.empty_like(mean), _blocks(width)
    triton_support.launch(
        forward_kernel,
        (triton.cdiv(batch * length, blocks["BT"]),),
        *(x, branch, weight.contiguous(), bias.contiguous(), seed, out, mean, scale),
        *(x.stride(0), batch * length, length, width),
        *dropping(dropout, drop_path),
        EPSILON=EPSILON,
        **blocks,
    )
    return out, mean, scale


def backward(
    grad: Tensor,
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    mean: Tensor,
    scale: Tensor,
    seed: Tensor | None,
    dropout: float,
    drop_path: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x and branch, and [2, F] of weight and bias; grad is that of the output."""
    batch, length, width = x.shape
    x, branch = readable(x), branch.contiguous()
    stretches = triton.cdiv(batch * length, STRETCH)
    grad_x, grad_branch = x.new_empty(x.shape), branch.new_empty(x.shape)
    sums = mean.new_empty(stretches, 2, width)
    triton_support.launch(
        backward_kernel,
        (stretches,),
        *(grad.contiguous(), x, branch, weight.contiguous(), mean, scale, seed),
        *(grad_x, grad_branch, sums),
        *(x.stride(0), batch * length, length, width),
        *dropping(dropout, drop_path),
        BN=STRETCH,
        **_blocks(width),
    )
    return grad_x, grad_branch, sums.sum(0).to(weight.dtype)


def _blocks(width: int) -> dict[str, int]:
    """Rows and channels of a tile, which holds whole rows, and the warps that share it."""
    channels = max(16, triton.next_power_of_2(width))
    rows = min(STRETCH, max(1, TILE // channels))
    return {"BT": rows, "BF": channels, "num_warps": WARPS if channels <= TILE else 2 * WARPS}
