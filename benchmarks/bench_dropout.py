"""`dropout` on the clips of a batch as the input projection sees them: native against PyTorch's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import dropout, library
from sdst.kernels.dropout import flops, traffic
from sdst.memory import peak_memory

SHAPE = (4 * 32 * 75, 768)  # K B L, Dv
RATE = 0.5
ROUNDS = 10

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def bench_dropout(benchmark, direction: str, dtype: torch.dtype) -> None:
    x = torch.randn(SHAPE).to(dtype).requires_grad_()
    upstream = torch.ones(SHAPE, dtype=dtype)

    def run(name: str) -> Tensor:
        if direction == "forward":
            with torch.no_grad():
                return dropout(x, RATE, implementation=name)
        (grad,) = torch.autograd.grad(dropout(x, RATE, implementation=name), x, upstream)
        return grad

    for name in ("native", "torch"):
        assert abs((run(name) != 0).float().mean() - (1 - RATE)) < 1e-3
    calls = {name: lambda name=name: run(name) for name in ("native", "torch")}
    seconds = interleave(calls, ROUNDS)
    found = ratio(seconds["torch"], seconds["native"])
    passes = 1 if direction == "forward" else 2
    benchmark.group = f"dropout {direction}"
    benchmark.extra_info |= {
        "against torch": found,
        "peak bytes": {name: peak_memory(call) for name, call in calls.items()},
        "flops": passes * flops(x.numel()),
        "bytes": passes * traffic(x.numel(), x.itemsize),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    print(f"\n{direction}: {found['median']:.1f}x torch ({found['min']:.1f}-{found['max']:.1f})")
