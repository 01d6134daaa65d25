"""Linear assignment in C++ (csrc/cpu/linear_assignment.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library
from sdst.kernels.linear_assignment.reference import NonFiniteCostError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_compute = library.function("sdst_linear_assignment", "ppp" + "nnn" + "i")


def unsupported_reasons(cost: Tensor, sizes: Tensor) -> list[str]:
    """Why the C++ kernel cannot serve this call; empty if it can."""
    reasons = []
    if cost.device.type != "cpu":
        reasons.append(f"cost is on {cost.device}, only cpu is offered")
    if cost.dtype not in DTYPES:
        reasons.append(f"cost is {cost.dtype}, only fp32, bf16 and fp16 are offered")
    if missing := library.missing_reason():
        reasons.append(missing)
    return reasons


def linear_assignment(cost: Tensor, sizes: Tensor) -> Tensor:
    """See `sdst.kernels.linear_assignment`."""
    cost, sizes = cost.float().contiguous(), sizes.to(torch.int64).contiguous()
    out = sizes.new_empty(cost.shape[0], cost.shape[2])
    _compute(*library.pointers(cost, sizes, out), *cost.shape, torch.get_num_threads())
    failed = (out[:, :1] < 0).any(1) & (sizes > 0)
    if failed.any():
        raise NonFiniteCostError(int(failed.nonzero()[0]))
    return out
