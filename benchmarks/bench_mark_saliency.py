"""`mark_saliency` as a step of the recurrence calls it: native against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.tokens import compare
from sdst.kernels import library, mark_saliency
from sdst.kernels.mark_saliency import flops, traffic

# B, L, F
SHAPES = {"QVHighlights": (32, 75, 256), "4800 clips": (1, 4_800, 256)}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def make_inputs(
    shape: str, dtype: torch.dtype, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dense, sentence, direction, and lengths from half of the clips up to all."""
    options = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    batch, length, width = SHAPES[shape]
    dense = torch.randn(batch, length, width, **options).to(dtype).requires_grad_()
    sentence = torch.randn(batch, width, **options).to(dtype)
    direction = torch.randn(width, **options).requires_grad_()
    lengths = torch.linspace(length, length // 2, batch, device=device).long()
    return dense, sentence, direction, lengths


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES)
def bench_mark_saliency(benchmark, shape: str, direction: str, dtype: str) -> None:
    inputs = make_inputs(shape, DTYPES[dtype])
    dense, _, added, _ = inputs
    upstream = torch.randn(dense.shape, generator=torch.Generator().manual_seed(1)).to(dense.dtype)

    def run(name: str) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (mark_saliency(*inputs, implementation=name),)
        out = mark_saliency(*inputs, implementation=name)
        return torch.autograd.grad(out, (dense, added), upstream)

    tolerance = 1e-3 if dtype == "fp32" else 2e-2
    for mine, reference in zip(run("native"), run("reference"), strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
    extra: dict[str, str | int] = {"dtype": str(dense.dtype).removeprefix("torch.")}
    if direction == "forward":
        extra["flops"] = flops(*dense.shape)
        extra["bytes"] = traffic(*dense.shape, element=dense.element_size())
    calls = {name: lambda name=name: run(name) for name in ("native", "reference")}
    compare(benchmark, "mark_saliency", direction, calls, **extra)
