"""The Triton kernels of all ops: when they fit, how they are found, how they start.

Triton is imported when a kernel first runs: importing it takes a while, and it is not everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sdst.kernels import dispatch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OLDEST = 8  # major compute capability: bf16 and tf32 arithmetic


def unsupported_reasons(**tensors: Tensor) -> list[str]:
    """Why a Triton kernel cannot take these tensors, naming them; empty if it can."""
    reasons = []
    for name, tensor in tensors.items():
        if tensor.device.type != "cuda":
            reasons.append(f"{name} is on {tensor.device.type}, expected a CUDA device")
        if tensor.dtype not in DTYPES and not (tensor.dtype == torch.int8 and name == "tokens"):
            reasons.append(f"{name} is {tensor.dtype}, only fp32, bf16 and fp16 are offered")
    missing = missing_reason()
    if missing is not None:
        reasons.append(missing)
    if not reasons:
        major = torch.cuda.get_device_properties(next(iter(tensors.values())).device).major
        if major < OLDEST:
            reasons.append(f"the GPU has compute capability {major}.x, at least 8.0 is needed")
    return reasons


def tf32x3_reasons() -> list[str]:
    """Why a kernel cannot multiply fp32 on tensor cores in three tf32 products; empty if it can."""
    if torch.version.hip is None:
        return []
    return ["this PyTorch is built for ROCm, whose Triton has no tf32x3 products"]


@dispatch.constant
def missing_reason() -> str | None:
    """Why Triton cannot be used, None if it can."""
    return None if find_spec("triton") else "triton is not installed; run `pip install triton`"


def late(module: str, function: str) -> Callable:
    """`function` of `module`, which is imported when it is first called."""

    @cache
    def found() -> Callable:
        return getattr(import_module(module), function)

    return lambda *args: found()(*args)


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **constants: object) -> None:
    """Start a Triton kernel on the device of its first argument; an empty grid starts nothing."""
    if 0 in grid:
        return
    device = args[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*args, **constants)
