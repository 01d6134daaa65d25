"""Tensors for the example calls of ops: random ones, or without contents on "meta"."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sdst.kernels.quantization import quantize

# Small sizes, so that a call is quick and edges are frequent.
ANY, SOME = range(7), range(1, 7)
WIDTHS = (1, 3, 8, 17)
STORES = (None, None, torch.int8, torch.float16, torch.bfloat16)
STRIDES = ((1, 2, 4, 8), (1,), (3, 1), (2**20, 1))


class Make:
    """Makes tensors, the same ones from the same seed.

    Args:
        device: where they are.
        dtype: of floats, where an example does not say another.
    """

    def __init__(
        self, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._generator = torch.Generator().manual_seed(seed)

    def floats(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers."""
        return self._new(torch.randn, shape, dtype or self.dtype)

    def integers(self, below: int, *shape: int) -> Tensor:
        """int64 in [0, below), or 0 if there is none."""
        return self._new(lambda *x, **o: torch.randint(max(below, 1), *x, **o), shape, torch.int64)

    def lengths(self, batch: int, length: int, bounded: bool) -> Tensor | None:
        """[batch] int64 in [0, length], or None where nothing is bounded."""
        return self.integers(length + 1, batch) if bounded else None

    def flags(self, *shape: int) -> Tensor:
        """Mostly True."""
        return self._new(torch.rand, shape, torch.float32) > 0.2

    def tokens(self, *shape: int, stored: torch.dtype | None) -> tuple[Tensor, Tensor | None]:
        """A token store [..., D] in dtype `stored`, and the scales [...] of an int8 one."""
        if stored != torch.int8:
            return self.floats(*shape, dtype=stored), None
        if self.device.type == "meta":
            scales = self.floats(*shape[:-1], dtype=torch.float32)
            return self._new(torch.zeros, shape, torch.int8), scales
        return quantize(self.floats(*shape, dtype=torch.float32))

    def _new(
        self, create: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        if self.device.type == "meta":
            return torch.empty(shape, dtype=dtype, device="meta")
        return create(shape, generator=self._generator).to(self.device, dtype)
