"""`linear_assignment` at a training step's size: native against scipy, problem by problem."""

from __future__ import annotations

import pytest
import torch

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import library, linear_assignment
from sdst.kernels.linear_assignment import flops, traffic

BATCH, QUERIES, MOMENTS = 640, 10, 5  # 128 samples, 5 steps
ROUNDS = 30

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def bench_linear_assignment(benchmark) -> None:
    cost = torch.randn(BATCH, QUERIES, MOMENTS, generator=torch.Generator().manual_seed(0))
    sizes = torch.full((BATCH,), MOMENTS)

    def run(implementation: str) -> torch.Tensor:
        return linear_assignment(cost, sizes, implementation=implementation)

    # With random costs the cheapest assignment is the only one.
    assert torch.equal(run("native"), run("reference"))
    candidates = {name: lambda name=name: run(name) for name in ("native", "reference")}
    seconds = interleave(candidates, ROUNDS)
    found = ratio(seconds["reference"], seconds["native"])
    benchmark.group = "linear_assignment forward"
    benchmark.extra_info |= {
        "against scipy": found,
        "flops": flops(BATCH, QUERIES, MOMENTS),
        "bytes": traffic(BATCH, QUERIES, MOMENTS),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    print(f"\n{found['median']:.1f}x scipy ({found['min']:.1f}-{found['max']:.1f})")
