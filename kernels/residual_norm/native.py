"""Residuals in C++ (csrc/cpu/residual_norm.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library
from sdst.kernels.residual_norm.reference import dropping

BLOCK = 64  # rows of a partial sum of the backward pass

_forward = library.function("sdst_residual_norm_forward", "pppppppp" + "nnnn" + "nnf" + "iii")
_backward = library.function("sdst_residual_norm_backward", "ppppppppppp" + "nnnnn" + "nnf" + "iii")


def unsupported_reasons(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, dropout: float, drop_path: float
) -> list[str]:
    """Why the C++ kernels cannot serve this call; empty if they can."""
    reasons = library.unsupported_reasons(x=x, branch=branch, weight=weight, bias=bias)
    for name, tensor in {"x": x, "branch": branch}.items():
        if tensor.dtype not in (torch.float32, torch.bfloat16):
            reasons.append(f"{name} is {tensor.dtype}, only fp32 and bf16 are offered")
    for name, tensor in {"weight": weight, "bias": bias}.items():
        if tensor.dtype != torch.float32:
            reasons.append(f"{name} is {tensor.dtype}, only fp32 is offered")
    return reasons


def forward(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropout: float,
    drop_path: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """out [B, L, F], and every row's mean and inverse deviation [B, L]; all fp32, see the op."""
    batch, length, width = x.shape
    stream, apart = library.prepare_samples(x)
    added, gain, shift = branch.contiguous(), weight.contiguous(), bias.contiguous()
    out = gain.new_empty(x.shape)
    mean, scale = gain.new_empty(batch, length), gain.new_empty(batch, length)
    _forward(
        *library.pointers(stream, added, gain, shift, seed, out, mean, scale),
        *(batch, apart, length, width),
        *dropping(dropout, drop_path),
        *(library.TYPES[x.dtype], library.TYPES[branch.dtype], torch.get_num_threads()),
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
    stream, apart = library.prepare_samples(x)
    upstream, added, gain = grad.contiguous(), branch.contiguous(), weight.contiguous()
    blocks = -(-batch * length // BLOCK)
    grad_x, grad_branch = x.new_empty(x.shape), branch.new_empty(x.shape)
    partial, sums = gain.new_empty(blocks, 2, width), gain.new_empty(2, width)
    _backward(
        *library.pointers(upstream, stream, added, gain, mean, scale, seed),
        *library.pointers(grad_x, grad_branch, partial, sums),
        *(batch, apart, length, width, BLOCK),
        *dropping(dropout, drop_path),
        *(library.TYPES[x.dtype], library.TYPES[branch.dtype], torch.get_num_threads()),
    )
    return grad_x, grad_branch, sums
