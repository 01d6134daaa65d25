"""`residual_norm` as a training step calls it: native against PyTorch's operations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.tokens import compare
from sdst.kernels import library, residual_norm
from sdst.kernels.residual_norm import flops, traffic

# B, L, F
SHAPES = {"clips": (32, 75, 256), "queries": (32, 30, 256)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of the branch
RATES = (0.1, 0.1)

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_residual_norm(benchmark, shape: str, direction: str, dtype: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, branch, upstream = (torch.randn(SHAPES[shape], generator=generator) for _ in range(3))
    weight, bias = (torch.randn(x.shape[-1], generator=generator) for _ in range(2))
    branch = branch.to(DTYPES[dtype])
    for leaf in (x, branch, weight, bias):
        leaf.requires_grad_()

    def run(name: str, rates: tuple[float, float] = RATES) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (residual_norm(x, branch, weight, bias, *rates, implementation=name),)
        out = residual_norm(x, branch, weight, bias, *rates, implementation=name)
        return torch.autograd.grad(out, (x, branch, weight, bias), upstream)

    tolerance = 1e-3 if dtype == "fp32" else 2e-2
    still = (0.0, 0.0)  # PyTorch draws other numbers
    for mine, reference in zip(run("native", still), run("torch", still), strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
    extra: dict[str, str | int] = {"dtype": dtype}
    if direction == "forward":
        extra["flops"] = flops(*x.shape)
        extra["bytes"] = traffic(*x.shape, element=branch.element_size())
    calls = {name: lambda name=name: run(name) for name in ("native", "torch")}
    compare(benchmark, "residual_norm", direction, calls, **extra)
