"""Deformable attention over time: linear sampling at S points per head and query, weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch, triton_support
from sdst.kernels.deformable_attention import native, reference
from sdst.kernels.examples import ANY, SOME, Make
from sdst.kernels.registry import H100, Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LENGTH, check_tensors

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "deformable_attention_forward("
    "Tensor value, Tensor references, Tensor offsets, Tensor logits, Tensor? lengths) -> Tensor"
)
torch_ops.define(
    "deformable_attention_backward("
    "Tensor grad, Tensor value, Tensor references, Tensor offsets, Tensor logits, Tensor? lengths"
    ") -> (Tensor, Tensor, Tensor, Tensor)"
)
torch_ops.impl("deformable_attention_forward", native.forward, "CPU")
torch_ops.impl("deformable_attention_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.deformable_attention.triton", name)
    torch_ops.impl(f"deformable_attention_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::deformable_attention_forward")
def _fake_forward(
    value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor, lengths: Tensor | None
) -> Tensor:
    return value.new_empty(offsets.shape[:3] + value.shape[3:])


@torch.library.register_fake("sdst::deformable_attention_backward")
def _fake_backward(
    grad: Tensor,
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_references = offsets.new_empty((*offsets.shape[:3], 2), dtype=torch.float32)
    grad_value, grad_offsets, grad_logits = (x.new_empty(x.shape) for x in (value, offsets, logits))
    return grad_value, grad_references, grad_offsets, grad_logits


def _save(ctx, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, by_head, *others = torch.ops.sdst.deformable_attention_backward.default(
        grad, *ctx.saved_tensors
    )
    references = ctx.saved_tensors[1]
    summed = by_head.sum(2).to(references.dtype) if ctx.needs_input_grad[1] else None
    return value, summed, *others, None


torch.library.register_autograd(
    "sdst::deformable_attention_forward", _differentiate, setup_context=_save
)


def _not_on_gpu(
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None = None,
) -> list[str]:
    reasons = triton_support.unsupported_reasons(
        value=value, references=references, offsets=offsets, logits=logits
    )
    return reasons + triton_support.tf32x3_reasons()


def deformable_attention(
    value: Tensor,
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Attend to a few points of time around a reference, straight from the raw projections.

        p_s = center + offset_s width / 2,   A = softmax_s(logits)
        x_s = p_s L - 0.5,   i = floor(x_s),   f = x_s - i
        out = sum_s A_s ((1 - f) v_i + f v_{i+1})        taps outside of [0, L) are 0

    where the sampling is `grid_sample` on an image of height 1 (align_corners=False, zeros). [P],
    1-D form of Deformable-DETR's. With S = 1 the weight is 1: plain sampling at the references'
    centres where the offsets are 0.

    Args:
        value: [B, L, H, C], what is sampled.
        references: [B, M, 2] (center, width) in units of the valid length: 0 is its start, 1 its
            end. Points outside are allowed.
        offsets: [B, M, H, S] in half widths: -1 is the reference's left end, 1 its right end.
        logits: [B, M, H, S].
        lengths: [B] int64, valid clips of each video, clamped into [0, L]; all of L if None. What
            lies beyond is never read and gets gradient 0; a video of length 0 gives 0.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, M, H, C] in the dtype of value, accumulated in fp32; differentiable with respect to
        value, references, offsets and logits, deterministically.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together.
    """
    check_tensors(
        "deformable_attention",
        value=("BLHC", FLOAT, value),
        offsets=("BMHS", FLOAT, offsets),
        logits=("BMHS", FLOAT, logits),
        references=("BM2", FLOAT, references),
        lengths=("B", LENGTH, lengths),
    )
    inputs = (value, references, offsets, logits, lengths)
    chosen = dispatch.choose("deformable_attention", implementation, *inputs)
    if chosen == "reference":
        return reference.deformable_attention(*inputs)
    return torch.ops.sdst.deformable_attention_forward.default(*inputs)


def flops(batch: int, queries: int, heads: int, channels: int, samples: int) -> int:
    """Floating point operations of the forward pass; the backward takes twice as many.

    A multiply-add for each of the two taps of every sample and channel.
    """
    return 4 * batch * queries * heads * channels * samples


def traffic(
    batch: int,
    length: int,
    queries: int,
    heads: int,
    channels: int,
    samples: int,
    element: int = 4,
    backward: bool = False,
) -> int:
    """Bytes that the forward pass, or the backward, must move: everything read or written once.

    Of the values only what the samples can touch is read; all of their gradient is written.
    """
    touched = min(length, 2 * queries * samples)
    rows = touched + queries + backward * length
    scalars = 2 * queries * (samples * heads + 1) * (1 + backward)
    return batch * element * (rows * heads * channels + scalars)


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    queries: int = 4,
    heads: int = 2,
    channels: int = 8,
    samples: int = 4,
    bounded: bool = True,
) -> Arguments:
    """Arguments of a call."""
    points = (batch, queries, heads, samples)
    return {
        "value": make.floats(batch, length, heads, channels),
        "references": make.floats(batch, queries, 2),
        "offsets": make.floats(*points),
        "logits": make.floats(*points),
        "lengths": make.lengths(batch, length, bounded),
    }


_QVHIGHLIGHTS = {"batch": 32, "length": 75}

register(
    Op(
        name="deformable_attention",
        call=deformable_attention,
        implementations={
            "triton": _not_on_gpu,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices={
            **dict.fromkeys(("batch", "length", "queries"), ANY),
            **dict.fromkeys(("heads", "samples"), SOME),
            "channels": (1, 5, 8, 33),
            "bounded": (True, False),
        },
        asked=("value", "references", "offsets", "logits", "lengths"),
        launches={
            "sampling": _QVHIGHLIGHTS | {"queries": 10, "heads": 8, "channels": 32, "samples": 4},
            "ends and center": _QVHIGHLIGHTS
            | {"queries": 30, "heads": 1, "channels": 256, "samples": 1},
        },
        ran_on={"triton": H100},
    )
)
