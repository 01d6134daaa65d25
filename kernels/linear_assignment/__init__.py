"""Batched bipartite matching of queries and ground truths."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.linear_assignment import cuda, reference

dispatch.register("linear_assignment", cuda=cuda.unsupported_reasons, reference=dispatch.always)

library = torch.library.Library("sdst", "FRAGMENT")
library.define("linear_assignment_reference(Tensor cost, Tensor sizes) -> Tensor")
library.define("linear_assignment_cuda(Tensor cost, Tensor sizes) -> Tensor")
library.impl(
    "linear_assignment_reference", reference.linear_assignment, "CompositeExplicitAutograd"
)
library.impl("linear_assignment_cuda", cuda.linear_assignment, "CUDA")


@torch.library.register_fake("sdst::linear_assignment_reference")
@torch.library.register_fake("sdst::linear_assignment_cuda")
def _fake(cost: Tensor, sizes: Tensor) -> Tensor:
    return sizes.new_empty((cost.shape[0], cost.shape[2]))


def linear_assignment(cost: Tensor, sizes: Tensor, *, implementation: str = "auto") -> Tensor:
    """Assign a row (query) to every valid column (ground truth) at the least total cost.

    Args:
        cost: [B, M, G], M >= G.
        sizes: [B] int64, valid columns of each problem; the others are not read.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, G] int64: the row of each column, all different; -1 beyond `sizes`. No gradient.

    Raises:
        ValueError: M < G, or a valid cost is not finite (the CUDA kernel, which must not wait for
            the host to say so, gives -1 for such a problem).
    """
    if cost.shape[1] < cost.shape[2]:
        raise ValueError(
            f"linear_assignment: {cost.shape[2]} columns need at least as many rows, "
            f"found {cost.shape[1]}"
        )
    chosen = dispatch.choose("linear_assignment", implementation, cost, sizes)
    if chosen == "cuda":
        return torch.ops.sdst.linear_assignment_cuda(cost.detach(), sizes)
    return torch.ops.sdst.linear_assignment_reference(cost.detach(), sizes)
