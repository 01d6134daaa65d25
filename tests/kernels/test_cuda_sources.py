"""Every CUDA source compiles for every architecture without spilling a register."""

from __future__ import annotations

import shutil

import pytest

from benchmarks.kernels import ARCHITECTURES, cuda_sources, cuda_usage


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("op", cuda_sources())
def test_no_kernel_spills(op: str, architecture: str) -> None:
    used = cuda_usage(op, architecture)
    assert used
    assert all(kernel["stack"] == 0 for kernel in used.values()), used
