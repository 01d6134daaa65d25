"""Deformable attention over time: linear sampling at S points per head and query, weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch, gpu
from sdst.kernels.deformable_attention import native, reference

library = torch.library.Library("sdst", "FRAGMENT")
library.define(
    "deformable_attention_forward("
    "Tensor value, Tensor points, Tensor weights, Tensor? lengths) -> Tensor"
)
library.define(
    "deformable_attention_backward("
    "Tensor grad, Tensor value, Tensor points, Tensor weights, Tensor? lengths"
    ") -> (Tensor, Tensor, Tensor)"
)
library.impl("deformable_attention_forward", native.forward, "CPU")
library.impl("deformable_attention_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = gpu.late("sdst.kernels.deformable_attention.triton", name)
    library.impl(f"deformable_attention_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::deformable_attention_forward")
def _fake_forward(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> Tensor:
    return value.new_empty(points.shape[:3] + value.shape[3:])


@torch.library.register_fake("sdst::deformable_attention_backward")
def _fake_backward(
    grad: Tensor, value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(x.new_empty(x.shape) for x in (value, points, weights))


def _save(ctx, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.sdst.deformable_attention_backward(grad, *ctx.saved_tensors), None


torch.library.register_autograd(
    "sdst::deformable_attention_forward", _differentiate, setup_context=_save
)


def _not_on_gpu(
    value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None = None
) -> list[str]:
    return gpu.unsupported_reasons(value=value, points=points, weights=weights)


dispatch.register(
    "deformable_attention",
    triton=_not_on_gpu,
    native=native.unsupported_reasons,
    reference=dispatch.always,
)


def deformable_attention(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Sample values over time at given points and sum them up with given weights.

        x_s = p_s L - 0.5,   i = floor(x_s),   f = x_s - i
        out = sum_s A_s ((1 - f) v_i + f v_{i+1})        taps outside of [0, L) are 0

    which is `grid_sample` on an image of height 1 (align_corners=False, zeros). [P], 1-D form of
    Deformable-DETR's.

    Args:
        value: [B, L, H, C], what is sampled.
        points: [B, M, H, S] where, in units of the valid length: 0 is its start, 1 its end. Points
            outside are allowed.
        weights: [B, M, H, S], A.
        lengths: [B] int64 in [0, L], valid clips of each video; all of L if None. What lies beyond
            is never read and gets gradient 0; a video of length 0 gives 0.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, M, H, C] in the dtype of value, accumulated in fp32; differentiable with respect to
        value, points and weights, deterministically.

    Raises:
        ValueError: shapes that do not belong together.
    """
    _check(value, points, weights, lengths)
    chosen = dispatch.choose(
        "deformable_attention", implementation, value, points, weights, lengths
    )
    if chosen == "reference":
        return reference.deformable_attention(value, points, weights, lengths)
    return torch.ops.sdst.deformable_attention_forward(value, points, weights, lengths)


def flops(batch: int, queries: int, heads: int, channels: int, samples: int) -> int:
    """Floating point operations of the forward pass; the backward takes twice as many.

    A multiply-add for each of the two taps of every sample and channel.
    """
    return 4 * batch * queries * heads * channels * samples


def bytes(
    batch: int,
    length: int,
    queries: int,
    heads: int,
    channels: int,
    samples: int,
    element: int = 4,
) -> int:
    """Bytes that the forward pass must move at least: everything read or written once."""
    rows = min(length, 2 * queries * samples) + queries
    return batch * heads * element * (rows * channels + 2 * queries * samples)


def _check(value: Tensor, points: Tensor, weights: Tensor, lengths: Tensor | None) -> None:
    batch, _, heads, _ = value.shape
    if points.dim() != 4 or (points.shape[0], points.shape[2]) != (batch, heads):
        raise ValueError(
            f"deformable_attention: points must be [B, M, H, S] with B={batch} and H={heads} of "
            f"value {list(value.shape)}, found {list(points.shape)}"
        )
    if weights.shape != points.shape:
        raise ValueError(
            f"deformable_attention: weights {list(weights.shape)} must have the shape of points "
            f"{list(points.shape)}"
        )
    if lengths is not None and lengths.shape != (batch,):
        raise ValueError(
            f"deformable_attention: lengths must be [{batch}], found {list(lengths.shape)}"
        )
