"""Dropout whose random numbers cost little: a hash of each element's place, nothing is kept."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import dispatch
from sdst.kernels.dropout import native, reference
from sdst.kernels.examples import ANY, Make
from sdst.kernels.registry import Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define("dropout(Tensor x, Tensor seed, float rate) -> Tensor")
torch_ops.impl("dropout", native.dropout, "CPU")


@torch.library.register_fake("sdst::dropout")
def _fake(x: Tensor, seed: Tensor, rate: float) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
    _, seed, ctx.rate = inputs
    ctx.save_for_backward(seed)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    (seed,) = ctx.saved_tensors
    return torch.ops.sdst.dropout.default(grad, seed, ctx.rate), None, None


torch.library.register_autograd("sdst::dropout", _differentiate, setup_context=_save)


def dropout(x: Tensor, rate: float, *, implementation: str = "auto") -> Tensor:
    """Zero every element with probability `rate`, and divide the others by 1 - rate.

    On a CPU PyTorch draws its numbers one after the other in a single thread, and keeps the mask
    for the backward pass. Here an element's number is a hash of its place and of a seed drawn from
    PyTorch's generator: all threads compute it, and the backward pass computes it again.

    Args:
        x: any shape.
        rate: in [0, 1).
        implementation: see `sdst.kernels.dispatch`; `torch` is PyTorch's own, which serves GPUs.

    Returns:
        As x. The same seed of PyTorch gives the same result in any number of threads.

    Raises:
        ValueError: x is not of floats, or the rate is out of range.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"dropout: x is a {type(x).__name__}, expected a tensor")
    if x.dtype not in FLOAT:
        raise ValueError(f"dropout: x is {x.dtype}, expected floats")
    if not 0 <= rate < 1:
        raise ValueError(f"dropout: rate is {rate}, expected 0 <= rate < 1")
    chosen = dispatch.choose("dropout", implementation, x)
    if chosen == "torch":
        return functional.dropout(x, rate)
    seed = torch.randint(2**62, (), device=x.device)
    if chosen == "reference":
        return reference.dropout(x, seed, rate)
    return torch.ops.sdst.dropout.default(x, seed, rate)


def flops(elements: int) -> int:
    """Operations of a pass, hashing included."""
    return 12 * elements


def traffic(elements: int, element: int = 4) -> int:
    """Bytes that a pass must move: every element read and written."""
    return 2 * element * elements


def example(make: Make, rows: int = 4, width: int = 8) -> Arguments:
    """Arguments of a call."""
    return {"x": make.floats(rows, width), "rate": 0.5}


register(
    Op(
        name="dropout",
        call=dropout,
        implementations={
            "native": native.unsupported_reasons,
            "torch": always,
            "reference": always,
        },
        example=example,
        choices={"rows": ANY, "width": range(41)},
        asked=("x",),
    )
)
