"""Peaks of this machine, measured: memory bandwidth and matrix multiplies."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch

_REPEATS = 5


class Roofline(NamedTuple):
    """Peaks of a machine.

    Attributes:
        bandwidth: bytes per second of a large copy, read and write counted once each.
        flops: operations per second of a large matrix product, a multiply-add counted as two.
    """

    bandwidth: float
    flops: float

    def seconds(self, flops: float, bytes: float) -> float:
        """The least time for so much work: whichever of the two takes longer."""
        return max(flops / self.flops, bytes / self.bandwidth)


@cache
def measure(device: str, dtype: str) -> Roofline:
    """The roofline of `device` for `dtype` ("float32", ...) with PyTorch's present threads."""
    on_gpu = torch.device(device).type == "cuda"
    options = {"device": device, "dtype": getattr(torch, dtype)}
    source = torch.ones(2**30 if on_gpu else 2**25, **options)  # far larger than any cache
    target = torch.empty_like(source)
    size = 8192 if on_gpu else 1024
    a, b = (torch.randn(size, size, **options) for _ in range(2))  # equal numbers run faster
    return Roofline(
        bandwidth=2 * source.nbytes / _fastest(lambda: target.copy_(source), on_gpu),
        flops=2 * size**3 / _fastest(lambda: a @ b, on_gpu),
    )


def _fastest(call: Callable[[], object], on_gpu: bool) -> float:
    """Seconds of the fastest of some runs, after one unmeasured."""
    seconds = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        call()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
