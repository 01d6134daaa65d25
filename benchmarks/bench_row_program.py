"""`row_program` on a transformer's feed-forward layer, against its operations one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.interleave import interleave, ratio
from sdst.kernels import library
from sdst.kernels.row_program import RowProgram, linear, norm, read

WIDTH = 256
# Rows of a call: the moment queries of one sentence, the clips of a video, those of a batch.
ROWS = {"10 queries": (1, 10), "75 clips": (1, 75), "32 videos": (32, 75)}
ROUNDS = 15

pytestmark = pytest.mark.skipif(
    library.missing_reason("cpu") is not None, reason=str(library.missing_reason("cpu"))
)


@pytest.mark.parametrize("rows", ROWS)
def bench_row_program(benchmark, rows: str) -> None:
    torch.manual_seed(0)
    batch, count = ROWS[rows]
    up, down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
    x = read("x", WIDTH)
    inside = linear(x, up.weight, up.bias, relu=True)
    branch = linear(inside, down.weight, down.bias)
    program = RowProgram(y=norm(x + branch, torch.ones(WIDTH), torch.zeros(WIDTH)))
    tensor = torch.randn(batch, count, WIDTH)

    def run(implementation: str) -> list[Tensor]:
        with torch.no_grad():
            return program.run(batch, count, implementation=implementation, x=tensor)

    torch.testing.assert_close(run("native"), run("reference"), rtol=1e-4, atol=1e-5)
    calls = {name: lambda name=name: run(name) for name in ("native", "reference")}
    seconds = interleave(calls, ROUNDS)
    found = ratio(seconds["reference"], seconds["native"])
    benchmark.group = "row_program forward"
    benchmark.extra_info |= {
        "against torch": found,
        "flops": program.flops(batch, count),
        "bytes": program.bytes() + 8 * tensor.numel(),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    print(f"\n{found['median']:.1f}x torch ({found['min']:.1f}-{found['max']:.1f})")
