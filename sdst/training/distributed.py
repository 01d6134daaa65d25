"""Training by several processes: the order of their work, and a shared batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed

from sdst.data.batches import Batch


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


def agree_on_sizes(batch: Batch) -> Batch:
    """This process's part of a batch, padded to the sizes that the parts of all have at most.

    The host asks the others, once a batch; no device is waited for.
    """
    clips, _, moments = batch.sizes
    largest = torch.tensor((clips, moments))
    distributed.all_reduce(largest, distributed.ReduceOp.MAX, _hosts())
    return batch.with_sizes(*largest.tolist())


@cache
def _hosts() -> distributed.ProcessGroup | None:
    """The processes as they talk without a device."""
    if distributed.get_backend() == "gloo":
        return None
    group = distributed.new_group(backend="gloo")
    assert isinstance(group, distributed.ProcessGroup)  # each process is a member
    return group


def gather_batch(x: Tensor, dim: int) -> Tensor:
    """Join a tensor over all processes along its batch dimension, with gradient.

    Gradients of every process's loss flow back to where a part came from; averaged over processes,
    as DDP does, they equal those of one process with the joint batch.

    Args:
        x: of the same shape in every process (`agree_on_sizes`).
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return x
    return _Gather.apply(x.contiguous(), dim)


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
