"""Batched bipartite matching of queries and ground truths."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.examples import ANY, Make
from sdst.kernels.linear_assignment import cuda, native, reference
from sdst.kernels.linear_assignment.reference import NonFiniteCostError
from sdst.kernels.registry import BY_NVCC, Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LENGTH, check_tensors

__all__ = ["NonFiniteCostError", "linear_assignment"]

torch_ops = torch.library.Library("sdst", "FRAGMENT")
for _name in ("cuda", "native", "reference"):
    torch_ops.define(f"linear_assignment_{_name}(Tensor cost, Tensor sizes) -> Tensor")
torch_ops.impl("linear_assignment_cuda", cuda.linear_assignment, "CUDA")
torch_ops.impl("linear_assignment_native", native.linear_assignment, "CPU")
torch_ops.impl(
    "linear_assignment_reference", reference.linear_assignment, "CompositeExplicitAutograd"
)


@torch.library.register_fake("sdst::linear_assignment_cuda")
@torch.library.register_fake("sdst::linear_assignment_native")
@torch.library.register_fake("sdst::linear_assignment_reference")
def _fake(cost: Tensor, sizes: Tensor) -> Tensor:
    return cost.new_empty((cost.shape[0], cost.shape[2]), dtype=torch.int64)


def linear_assignment(cost: Tensor, sizes: Tensor, *, implementation: str = "auto") -> Tensor:
    """Assign a row (query) to every valid column (ground truth) at the least total cost.

    Args:
        cost: [B, M, G], M >= G.
        sizes: [B] int64, valid columns of each problem, clamped into [0, G]; the others are not
            read.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, G] int64: the row of each column, all different; -1 beyond `sizes`. No gradient. Among
        assignments of equal cost, `native` and `cuda` give the same one: the columns are served in
        order, and of equally near rows the lower is taken.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, or M < G.
        NonFiniteCostError: a valid cost is not finite (the CUDA kernel, which must not wait for the
            host to say so, gives -1 for such a problem).
    """
    check_tensors("linear_assignment", cost=("BMG", FLOAT, cost), sizes=("B", LENGTH, sizes))
    if cost.shape[1] < cost.shape[2]:
        raise ValueError(
            f"linear_assignment: {cost.shape[2]} columns need at least as many rows, "
            f"found {cost.shape[1]}"
        )
    chosen = dispatch.choose("linear_assignment", implementation, cost, sizes)
    op = getattr(torch.ops.sdst, f"linear_assignment_{chosen}").default
    return op(cost.detach(), sizes)


def flops(batch: int, rows: int, columns: int) -> int:
    """Least floating point operations: every column scans the rows once, two to a pair."""
    return 2 * batch * rows * columns


def traffic(batch: int, rows: int, columns: int) -> int:
    """Least traffic: costs in fp32 and sizes read once, the answer written once."""
    return batch * (4 * rows * columns + 8 + 8 * columns)


def example(make: Make, batch: int = 1, columns: int = 2, more: int = 2) -> Arguments:
    """Arguments of a call with `more` rows than columns."""
    return {
        "cost": make.floats(batch, columns + more, columns, dtype=torch.float32),
        "sizes": make.integers(columns + 1, batch),
    }


register(
    Op(
        name="linear_assignment",
        call=linear_assignment,
        implementations={
            "cuda": cuda.unsupported_reasons,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices=dict.fromkeys(("batch", "columns", "more"), ANY),
        asked=("cost", "sizes"),
        ran_on={"cuda": BY_NVCC},
    )
)
