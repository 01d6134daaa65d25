"""One batch over several processes."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed.nn.functional import all_gather
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
    return torch.cat(all_gather(functional.pad(x, padding).contiguous()), dim=dim)
