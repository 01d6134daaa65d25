"""Padded batches to one packed sequence and back, for the attention libraries."""

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
    """The inputs that every CUDA library takes."""
    reasons = []
    if q.device.type != "cuda":
        reasons.append(f"q is on {q.device}, expected a CUDA device")
    if q.dtype not in dtypes:
        expected = ", ".join(str(dtype) for dtype in dtypes)
        reasons.append(f"q is {q.dtype}, expected one of {expected}")
    return reasons


class Packing:
    """Where the valid rows of a padded batch [B, L, ...] are in one sequence, without asking how
    many there are: they come first, the padding follows.

    Args:
        lengths: [B] int64, valid part of L = `size`.
    """

    def __init__(self, lengths: Tensor, size: int) -> None:
        self.lengths = lengths.clamp(0, size)
        self.valid = torch.arange(size, device=lengths.device) < self.lengths[:, None]
        self.order = (~self.valid).flatten().argsort(stable=True)

    def pack(self, x: Tensor) -> Tensor:
        """Rows of [B, L, H, C] as [B L, H, C], zeros for the padding, which gets no gradient."""
        kept = torch.where(self.valid[..., None, None], x, 0)
        return kept.flatten(0, 1)[self.order]

    def unpack(self, rows: Tensor) -> Tensor:
        """[B, L, H, C] of the first rows, zeros in the padding whatever the others hold."""
        batch, size = self.valid.shape
        padded = rows.new_zeros(batch * size, *rows.shape[1:])
        padded = padded.index_copy(0, self.order[: len(rows)], rows)
        return torch.where(self.valid[..., None, None], padded.unflatten(0, (batch, size)), 0)
