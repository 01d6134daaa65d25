"""`deformable_attention` at QVHighlights' shape: native against both eager formulations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.interleave import interleave, ratio
from sdst.kernels import deformable_attention, library
from sdst.kernels.deformable_attention import bytes, flops

BATCH, LENGTH, QUERIES, HEADS, CHANNELS, SAMPLES = 32, 75, 10, 8, 32, 4
ROUNDS = 30

pytestmark = pytest.mark.skipif(
    library.missing_reason("cpu") is not None, reason=str(library.missing_reason("cpu"))
)


def by_grid_sample(value: Tensor, points: Tensor, weights: Tensor) -> Tensor:
    """Deformable-DETR's eager formulation, on pictures of height 1."""
    batch, length, heads, channels = value.shape
    queries, samples = points.shape[1], points.shape[3]
    picture = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, 1, length)
    x = (2 * points - 1).permute(0, 2, 1, 3).reshape(batch * heads, queries, samples)
    grid = torch.stack((x, torch.zeros_like(x)), dim=-1)
    sampled = functional.grid_sample(picture, grid, align_corners=False, padding_mode="zeros")
    weights = weights.permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, samples)
    out = (sampled * weights).sum(-1).view(batch, heads, channels, queries)
    return out.permute(0, 3, 1, 2)


FORMULATIONS = {
    "native": lambda *x: deformable_attention(*x, implementation="native"),
    "gather": lambda *x: deformable_attention(*x, implementation="reference"),
    "grid_sample": by_grid_sample,
}


@pytest.fixture
def inputs() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, QUERIES, HEADS, SAMPLES)
    value = torch.randn(BATCH, LENGTH, HEADS, CHANNELS, generator=generator)
    points = torch.rand(shape, generator=generator)
    weights = torch.rand(shape, generator=generator).softmax(-1)
    return [x.requires_grad_() for x in (value, points, weights)]


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def bench_deformable_attention(benchmark, inputs: list[Tensor], direction: str) -> None:
    upstream = torch.randn(BATCH, QUERIES, HEADS, CHANNELS)

    def forward(name: str) -> Tensor:
        with torch.no_grad():
            return FORMULATIONS[name](*inputs)

    def both(name: str) -> tuple[Tensor, ...]:
        return torch.autograd.grad(FORMULATIONS[name](*inputs), inputs, upstream)

    run = forward if direction == "forward" else both
    for name in ("gather", "grid_sample"):
        torch.testing.assert_close(run("native"), run(name), rtol=1e-3, atol=1e-3)
    seconds = interleave({name: lambda name=name: run(name) for name in FORMULATIONS}, ROUNDS)
    benchmark.group = f"deformable_attention {direction}"
    benchmark.extra_info |= {
        "against gather": ratio(seconds["gather"], seconds["native"]),
        "against grid_sample": ratio(seconds["grid_sample"], seconds["native"]),
        "flops": flops(BATCH, QUERIES, HEADS, CHANNELS, SAMPLES),
        "bytes": bytes(BATCH, LENGTH, QUERIES, HEADS, CHANNELS, SAMPLES),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    for name in ("gather", "grid_sample"):
        found = benchmark.extra_info[f"against {name}"]
        print(
            f"\n{direction}: {found['median']:.1f}x {name} ({found['min']:.1f}-{found['max']:.1f})"
        )
