"""The clips of a video marked by how well they match a sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch, triton_support
from sdst.kernels.examples import ANY, WIDTHS, Make
from sdst.kernels.mark_saliency import native, reference
from sdst.kernels.registry import Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LENGTH, check_tensors

WIDEST = 4096  # channels of a clip that the Triton kernels keep in registers

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "mark_saliency_forward(Tensor dense, Tensor sentence, Tensor direction, Tensor? lengths)"
    " -> (Tensor, Tensor)"
)
torch_ops.define("mark_saliency_backward(Tensor grad, Tensor z) -> Tensor")
torch_ops.impl("mark_saliency_forward", native.forward, "CPU")
torch_ops.impl("mark_saliency_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.mark_saliency.triton", name)
    torch_ops.impl(f"mark_saliency_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::mark_saliency_forward")
def _fake_forward(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    return dense.new_empty(dense.shape), dense.new_empty(dense.shape[:2], dtype=torch.float32)


@torch.library.register_fake("sdst::mark_saliency_backward")
def _fake_backward(grad: Tensor, z: Tensor) -> Tensor:
    return z.new_empty(grad.shape[-1])


def _save(
    ctx, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None], output: tuple[Tensor, Tensor]
) -> None:
    _, z = output
    ctx.dtype = inputs[2].dtype
    ctx.mark_non_differentiable(z)
    ctx.set_materialize_grads(False)  # no zeros for z
    ctx.save_for_backward(z)


def _differentiate(ctx, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    direction = None
    if grad is not None and ctx.needs_input_grad[2]:
        (z,) = ctx.saved_tensors
        direction = torch.ops.sdst.mark_saliency_backward.default(grad, z).to(ctx.dtype)
    return grad, None, direction, None


torch.library.register_autograd("sdst::mark_saliency_forward", _differentiate, setup_context=_save)


def _not_on_gpu(
    dense: Tensor, sentence: Tensor, direction: Tensor, lengths: Tensor | None = None
) -> list[str]:
    reasons = triton_support.unsupported_reasons(
        dense=dense, sentence=sentence, direction=direction
    )
    if dense.shape[-1] > WIDEST:
        reasons.append(f"dense has {dense.shape[-1]} channels, at most {WIDEST} are offered")
    return reasons


def mark_saliency(
    dense: Tensor,
    sentence: Tensor,
    direction: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """Add to every clip a direction times its standardised saliency.

        s_t = <D_t, q> / (|D_t| |q|)                              the norms at least 1e-12
        z_t = (s_t - mean s) / sqrt(var s + 1e-6)                 over the valid clips; 0 beyond
        out_t = D_t + z_t c

    z counts as a constant: the gradient of D is that of out itself, and that of c is sum z_t g_t.

    Args:
        dense: D, [B, L, F] fp32, fp16 or bf16.
        sentence: q, [B, F]; gets no gradient.
        direction: c, [F].
        lengths: [B] int64, valid clips of each video, clamped into [0, L]; all of L if None.
            Nothing beyond them reaches a valid clip, and out equals D there.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, L, F] in the dtype of dense, computed in fp32; differentiable with respect to dense and
        direction, deterministically.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together.
    """
    check_tensors(
        "mark_saliency",
        dense=("BLF", FLOAT, dense),
        sentence=("BF", FLOAT, sentence),
        direction=("F", FLOAT, direction),
        lengths=("B", LENGTH, lengths),
    )
    inputs = (dense, sentence, direction, lengths)
    if dispatch.choose("mark_saliency", implementation, *inputs) == "reference":
        return reference.mark_saliency(*inputs)
    out, _ = torch.ops.sdst.mark_saliency_forward.default(*inputs)
    return out


def flops(batch: int, length: int, width: int) -> int:
    """Floating point operations of the forward pass; the backward takes a third as many.

    A multiply-add each for <D, q>, |D|^2 and the sum.
    """
    return 6 * batch * length * width


def traffic(batch: int, length: int, width: int, element: int = 4, backward: bool = False) -> int:
    """Bytes that the forward pass, or the backward, must move: everything read or written once."""
    clips, z = batch * length * width * element, 4 * batch * length
    if backward:
        return clips + z + 4 * width
    return 2 * clips + z + batch * width * element + 4 * width


def example(
    make: Make, batch: int = 1, length: int = 4, width: int = 8, bounded: bool = True
) -> Arguments:
    """Arguments of a call."""
    return {
        "dense": make.floats(batch, length, width),
        "sentence": make.floats(batch, width),
        "direction": make.floats(width, dtype=torch.float32),
        "lengths": make.lengths(batch, length, bounded),
    }


register(
    Op(
        name="mark_saliency",
        call=mark_saliency,
        implementations={
            "triton": _not_on_gpu,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices={
            **dict.fromkeys(("batch", "length"), ANY),
            "width": WIDTHS,
            "bounded": (True, False),
        },
        asked=("dense", "sentence", "direction", "lengths"),
        launches={
            "short videos": {"batch": 32, "length": 75, "width": 256},
            "long video": {"batch": 1, "length": 4800, "width": 256},
            "widest": {"batch": 32, "length": 75, "width": WIDEST},
        },
    )
)
