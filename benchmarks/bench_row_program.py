"""`row_program` on a transformer's feed-forward layer, against its operations one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import library
from sdst.kernels.row_program import RowProgram, linear, norm, read

WIDTH = 256
# Rows of a call: the moment queries of one sentence, the clips of a video, those of a batch.
ROWS = {"10 queries": (1, 10), "75 clips": (1, 75), "32 videos": (32, 75)}
ROUNDS = 15

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.parametrize("rows", ROWS)
def bench_row_program(benchmark, precision: torch.dtype, rows: str) -> None:
    """In bf16 PyTorch's operations are under autocast, too."""
    torch.manual_seed(0)
    batch, count = ROWS[rows]
    up, down = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
    x = read("x", WIDTH)
    inside = linear(x, up.weight, up.bias, relu=True)
    branch = linear(inside, down.weight, down.bias)
    program = RowProgram(y=norm(x + branch, torch.ones(WIDTH), torch.zeros(WIDTH)))
    tensor = torch.randn(batch, count, WIDTH)
    autocast = torch.autocast("cpu", precision, enabled=precision != torch.float32)

    @torch.no_grad()
    @autocast
    def native() -> Tensor:
        [y] = program.run(batch, count, implementation="native", x=tensor)
        return y

    @torch.no_grad()
    @autocast
    def one_by_one() -> Tensor:
        return functional.layer_norm(tensor + down(up(tensor).relu_()), (WIDTH,))

    tolerance = 1e-4 if precision == torch.float32 else 2e-2
    torch.testing.assert_close(native(), one_by_one(), rtol=tolerance, atol=tolerance)
    seconds = interleave({"native": native, "torch": one_by_one}, ROUNDS)
    found = ratio(seconds["torch"], seconds["native"])
    benchmark.group = "row_program forward"
    benchmark.extra_info |= {
        "against torch": found,
        "flops": program.flops(batch, count),
        "bytes": autocast(program.traffic)() + 8 * tensor.numel(),
        "dtype": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(native, rounds=ROUNDS, warmup_rounds=2)
    print(f"\n{found['median']:.1f}x torch ({found['min']:.1f}-{found['max']:.1f})")
