"""What the attention libraries share: padded batches to one packed sequence and back."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import torch
from torch import Tensor

from sdst.kernels import dispatch


@dispatch.constant
def missing_module(name: str) -> list[str]:
    """Why the Python module `name` cannot be used; empty if it can."""
    return list(_import_error(name))


@cache
def _import_error(name: str) -> tuple[str, ...]:
    try:
        import_module(name)
    except Exception as error:  # a library built for another torch fails in many ways
        return (f"{name} cannot be imported: {' '.join(str(error).split())}",)
    return ()


def cuda_reasons(q: Tensor, dtypes: tuple[torch.dtype, ...]) -> list[str]:
    """What every CUDA library asks of its inputs."""
    reasons = []
    if q.device.type != "cuda":
        reasons.append(f"q is on {q.device}, expected a CUDA device")
    if q.dtype not in dtypes:
        expected = ", ".join(str(dtype) for dtype in dtypes)
        reasons.append(f"q is {q.dtype}, expected one of {expected}")
    return reasons


def pack(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """Valid rows of [B, L, H, C] in one sequence, [sum of lengths, H, C], and where they lay."""
    valid = torch.arange(q.shape[1], device=q.device) < lengths[:, None]
    rows = valid.flatten().nonzero().squeeze(1)
    return [x.flatten(0, 1)[rows] for x in (q, k, v)], rows


def unpack(packed: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """Rows back to where they lay in [B, L, H, C], zeros elsewhere."""
    out = packed.new_zeros(like.shape[0] * like.shape[1], *like.shape[2:])
    return out.index_copy(0, rows, packed).view(like.shape)
