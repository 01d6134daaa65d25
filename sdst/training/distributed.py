"""What several training processes share: the order of their work, and a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed
from torch.nn import functional


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run a block in the main process, then in the others.

    Where the block raises in the main process, the others end with exit code 2 instead of running
    it, so that the error is reported once and nobody waits for a process that is gone.
    """
    if not accelerator.is_main_process:
        failed = [False]
        broadcast_object_list(failed)
        if failed[0]:
            raise SystemExit(2)
        yield
        return
    failed = [True]
    try:
        yield
        failed[0] = False
    finally:
        broadcast_object_list(failed)


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
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        [grad] = grads
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total.narrow(ctx.dim, distributed.get_rank() * ctx.size, ctx.size), None
