"""Deformable attention over time: linear sampling at S points per head and query, weighted sum.

    x = p L - 0.5,  i = floor(x),  f = x - i
    y(p) = (1 - f) v_i + f v_{i+1}           taps outside of [0, L) are 0
    out  = sum_s A_s y(p_s)

and backward, with g the gradient of out,

    dv_i += A (1 - f) g,  dv_{i+1} += A f g,  dA = <y, g>,  dp = L A <v_{i+1} - v_i, g>
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.deformable_attention import native, reference

OP = "deformable_attention"
dispatch.register(OP, native=native.unsupported_reasons, reference=dispatch.always)


def deformable_attention(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Sample `value` over time and sum the samples by weight. Source: method.md of SDST, RDSA.

    Args:
        value: [B, L, H, C].
        points: [B, M, H, S], in units of the valid length: 0 is its start, 1 its end.
        weights: [B, M, H, S].
        lengths: [B] int64, valid part of L; None where all of it is. What lies beyond is not read.
        implementation: `auto`, `native` or `reference`.

    Returns:
        [B, M, H, C].

    Raises:
        ValueError: shapes that do not belong together.
        ImplementationError: the implementation asked for does not fit the call.
    """
    _check(value, points, weights, lengths)
    chosen = dispatch.choose(OP, implementation, value, points, weights, lengths)
    if chosen == "native":
        return _forward_op(value, points, weights, lengths)
    return reference.deformable_attention(value, points, weights, lengths)


def flops(batch: int, queries: int, heads: int, channels: int, samples: int) -> int:
    """Multiply-adds of the forward pass, counted as two: both taps of every sample."""
    return 4 * batch * queries * heads * samples * channels


def bytes(
    batch: int, length: int, queries: int, heads: int, channels: int, samples: int, size: int = 4
) -> int:
    """Least traffic of the forward pass: every input once, the output once."""
    per_query = heads * (2 * samples + channels)
    return size * batch * (length * heads * channels + queries * per_query)


def _check(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> None:
    if (
        value.ndim != 4
        or points.ndim != 4
        or points.shape != weights.shape
        or (points.shape[0], points.shape[2]) != (value.shape[0], value.shape[2])
    ):
        raise ValueError(
            f"value {tuple(value.shape)}, points {tuple(points.shape)}, weights "
            f"{tuple(weights.shape)}: expected [B, L, H, C], [B, M, H, S], [B, M, H, S]"
        )
    if lengths is not None and lengths.shape != value.shape[:1]:
        raise ValueError(f"lengths {tuple(lengths.shape)}: expected [{value.shape[0]}]")


@torch.library.custom_op("sdst::deformable_attention_forward", mutates_args=(), device_types="cpu")
def _forward_op(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    return native.forward(*_prepared(value, points, weights, lengths))


@torch.library.custom_op("sdst::deformable_attention_backward", mutates_args=(), device_types="cpu")
def _backward_op(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return native.backward(grad.contiguous(), *_prepared(value, points, weights, lengths))


@_forward_op.register_fake
def _(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    return value.new_empty(*points.shape[:3], value.shape[3])


@_backward_op.register_fake
def _(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in (value, points, weights)
    )


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward_op(grad, *ctx.saved_tensors), None


_forward_op.register_autograd(_backward, setup_context=_setup_context)


def _prepared(
    value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Contiguous, with int64 lengths inside [0, L]: native code reads nothing else."""
    if lengths is not None:
        lengths = lengths.to(torch.int64).clamp(0, value.shape[1]).contiguous()
    return value.contiguous(), points.contiguous(), weights.contiguous(), lengths
