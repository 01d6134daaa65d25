"""The end of a residual branch: dropout, stochastic depth, the sum and its layer norm at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import dispatch, triton_support
from sdst.kernels.examples import ANY, WIDTHS, Make
from sdst.kernels.registry import Arguments, Op, always, register
from sdst.kernels.residual_norm import native, reference
from sdst.kernels.shapes import FLOAT, check_tensors

WIDEST = 4096  # channels of a row that the Triton kernels keep in registers

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "residual_norm_forward(Tensor x, Tensor branch, Tensor weight, Tensor bias, Tensor? seed,"
    " float dropout, float drop_path) -> (Tensor, Tensor, Tensor)"
)
torch_ops.define(
    "residual_norm_backward(Tensor grad, Tensor x, Tensor branch, Tensor weight, Tensor mean,"
    " Tensor scale, Tensor? seed, float dropout, float drop_path)"
    " -> (Tensor, Tensor, Tensor)"
)
torch_ops.impl("residual_norm_forward", native.forward, "CPU")
torch_ops.impl("residual_norm_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.residual_norm.triton", name)
    torch_ops.impl(f"residual_norm_{name}", kernel, "CUDA")

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, float, float]


@torch.library.register_fake("sdst::residual_norm_forward")
def _fake_forward(
    x: Tensor, branch: Tensor, weight: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    mean, scale = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    dtype = reference.result_dtype(x, branch, weight)
    return x.new_empty(x.shape, dtype=dtype), mean, scale


@torch.library.register_fake("sdst::residual_norm_backward")
def _fake_backward(
    grad: Tensor, x: Tensor, branch: Tensor, weight: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), branch.new_empty(x.shape), weight.new_empty(2, len(weight))


def _save(ctx, inputs: Inputs, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, branch, weight, _, seed, ctx.dropout, ctx.drop_path = inputs
    _, mean, scale = output
    ctx.mark_non_differentiable(mean, scale)
    ctx.set_materialize_grads(False)  # no zeros for mean and scale
    ctx.save_for_backward(x, branch, weight, mean, scale, seed)


def _differentiate(ctx, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    rates = ctx.dropout, ctx.drop_path
    x, branch, affine = torch.ops.sdst.residual_norm_backward.default(
        grad, *ctx.saved_tensors, *rates
    )
    return x, branch, *affine.unbind(), None, None, None


torch.library.register_autograd("sdst::residual_norm_forward", _differentiate, setup_context=_save)


def _not_on_gpu(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, dropout: float, drop_path: float
) -> list[str]:
    reasons = triton_support.unsupported_reasons(x=x, branch=branch, weight=weight, bias=bias)
    if x.shape[-1] > WIDEST:
        reasons.append(f"x has {x.shape[-1]} channels, at most {WIDEST} are offered")
    return reasons


def residual_norm(
    x: Tensor,
    branch: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    *,
    implementation: str = "auto",
) -> Tensor:
    """LN(x + DropPath(Dropout(branch))), with weight and bias and an epsilon of 1e-5.

    Dropout zeroes elements, DropPath whole samples of the branch; what stays is divided by the
    chance to stay. Their random numbers are hashes of an element's or a sample's place and of a
    seed drawn from PyTorch's generator, as in `dropout`: the backward pass computes them again.

    Args:
        x, branch: [B, L, F], of one or two dtypes.
        weight, bias: [F].
        dropout, drop_path: rates in [0, 1).
        implementation: see `sdst.kernels.dispatch`; `torch` is PyTorch's operations one by one,
            with its own random numbers.

    Returns:
        [B, L, F] in the widest dtype of x, branch and weight, computed in fp32; differentiable with
        respect to all four, deterministically. The same seed of PyTorch gives the same result in
        any number of threads.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, or a rate out of range.
    """
    check_tensors(
        "residual_norm",
        x=("BLF", FLOAT, x),
        branch=("BLF", FLOAT, branch),
        weight=("F", FLOAT, weight),
        bias=("F", FLOAT, bias),
    )
    for name, rate in {"dropout": dropout, "drop_path": drop_path}.items():
        if not 0 <= rate < 1:
            raise ValueError(f"residual_norm: {name} is {rate}, expected 0 <= {name} < 1")
    inputs, rates = (x, branch, weight, bias), (dropout, drop_path)
    chosen = dispatch.choose("residual_norm", implementation, *inputs, *rates)
    if chosen == "torch":
        return _one_by_one(*inputs, *rates)
    seed = torch.randint(2**62, (), device=x.device) if any(rates) else None
    if chosen == "reference":
        return reference.residual_norm(*inputs, seed, *rates)
    out, _, _ = torch.ops.sdst.residual_norm_forward.default(*inputs, seed, *rates)
    return out


def _order(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, dropout: float, drop_path: float
) -> tuple[str, ...]:
    """Where nothing is dropped PyTorch is as fast on a CPU, and faster backwards: the gradients of
    x and branch are one tensor."""
    if x.device.type == "cpu" and not (dropout or drop_path):
        return ("torch",)
    return "triton", "native", "torch"


def _one_by_one(
    x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor, dropout: float, drop_path: float
) -> Tensor:
    """In PyTorch's operations."""
    if dropout:
        branch = functional.dropout(branch, dropout)
    if drop_path:
        kept = torch.empty_like(branch[:, :1, :1]).bernoulli_(1 - drop_path)
        branch = branch * (kept / (1 - drop_path))
    total = x + branch
    if torch.is_autocast_enabled(total.device.type):  # which knows what is computed in what
        return functional.layer_norm(total, weight.shape, weight, bias, reference.EPSILON)
    dtype = total.dtype if total.dtype.itemsize > weight.dtype.itemsize else weight.dtype
    total, weight, bias = (y if y.dtype == dtype else y.to(dtype) for y in (total, weight, bias))
    return functional.layer_norm(total, weight.shape, weight, bias, reference.EPSILON)


def flops(batch: int, length: int, width: int) -> int:
    """Operations of the forward pass with dropout; the backward takes about twice as many."""
    return 24 * batch * length * width


def traffic(batch: int, length: int, width: int, element: int = 4, backward: bool = False) -> int:
    """Bytes that the forward pass, or the backward, must move: everything read or written once.

    Args:
        element: of the branch; x and the result are of fp32.
    """
    rows, statistics = batch * length * width, 8 * batch * length
    if backward:  # reads the upstream gradient, x and branch, writes two gradients
        return rows * (3 * 4 + 2 * element) + statistics + 3 * 4 * width
    return rows * (2 * 4 + element) + statistics + 2 * 4 * width


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    width: int = 8,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> Arguments:
    """Arguments of a call."""
    return {
        "x": make.floats(batch, length, width, dtype=torch.float32),
        "branch": make.floats(batch, length, width),
        "weight": make.floats(width, dtype=torch.float32),
        "bias": make.floats(width, dtype=torch.float32),
        "dropout": dropout,
        "drop_path": drop_path,
    }


_DROPPING = {"dropout": 0.1, "drop_path": 0.1}

register(
    Op(
        name="residual_norm",
        call=residual_norm,
        implementations={
            "triton": _not_on_gpu,
            "native": native.unsupported_reasons,
            "torch": always,
            "reference": always,
        },
        example=example,
        order=_order,
        choices={
            **dict.fromkeys(("batch", "length"), ANY),
            "width": WIDTHS,
            **dict.fromkeys(("dropout", "drop_path"), (0.0, 0.1, 0.9)),
        },
        asked=("x", "branch", "weight", "bias", "dropout", "drop_path"),
        launches={
            "clips": {"batch": 32, "length": 75, "width": 256, **_DROPPING},
            "without dropping": {"batch": 32, "length": 75, "width": 256},
            "widest": {"batch": 32, "length": 75, "width": WIDEST, **_DROPPING},
        },
    )
)
