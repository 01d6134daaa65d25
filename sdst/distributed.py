"""One batch over several processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.nn import functional


def gather_batch(x: Tensor, dim: int) -> Tensor:
    """Join a tensor over all processes along its batch dimension, with gradient.

    Processes may differ in the other sizes (each pads its own samples): all are padded with zeros
    to the largest. Gradients of every process's loss flow back to where a part came from; averaged
    over processes, as DDP does, they equal those of one process with the joint batch.

    Args:
        x: any shape; size `dim` must be the same in every process.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return x
    shape = torch.tensor(x.shape, device=x.device)
    distributed.all_reduce(shape, distributed.ReduceOp.MAX)
    missing = [new - old for old, new in zip(x.shape, shape.tolist(), strict=True)]
    padding = [size for after in reversed(missing) for size in (0, after)]
    return _Gather.apply(functional.pad(x, padding).contiguous(), dim)


class _Gather(torch.autograd.Function):
    """Concatenation over processes; back flows the sum of what every process's loss says."""

    @staticmethod
    def forward(ctx, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.size = dim, x.shape[dim]
        parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, x)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.narrow(ctx.dim, distributed.get_rank() * ctx.size, ctx.size), None
