"""The CUDA implementation in csrc/cuda/linear_assignment.cu: a warp per problem, no host sync."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sdst.kernels import cuda_kernels
from sdst.kernels.cuda_kernels import WARP

_assign = cuda_kernels.Kernel("linear_assignment", "assign_problems")
_SHARED_MEMORY = 48 * 1024  # bytes that every architecture grants without asking


def unsupported_reasons(cost: Tensor, sizes: Tensor) -> list[str]:
    """Why this call cannot be served by CUDA; empty if it can."""
    reasons = []
    if missing := cuda_kernels.missing_reason("linear_assignment", cost.device):
        reasons.append(missing)
    if (needed := _workspace(*cost.shape[1:])) > _SHARED_MEMORY:
        reasons.append(f"a problem needs {needed} bytes of shared memory, more than 48 KiB")
    return reasons


def linear_assignment(cost: Tensor, sizes: Tensor) -> Tensor:
    """See `sdst.kernels.linear_assignment`; a problem with a non-finite cost gives -1."""
    cost, sizes = cost.float().contiguous(), sizes.to(torch.int64).contiguous()
    batch, rows, columns = cost.shape
    out = sizes.new_empty(batch, columns)
    _assign.launch(
        cost.device,
        batch if columns > 0 else 0,
        WARP,
        *(cost, sizes, out, ctypes.c_int(rows), ctypes.c_int(columns)),
        shared=_workspace(rows, columns),
    )
    return out


def _workspace(rows: int, columns: int) -> int:
    """Bytes of shared memory per problem, `workspace_bytes` of csrc/include/assignment.h."""
    return (2 * (rows + 1) + columns + 1) * 8 + 3 * (rows + 1) * 4
