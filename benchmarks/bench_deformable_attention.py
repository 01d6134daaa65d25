"""`deformable_attention` from raw projections: native against eager and compiled formulations."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import deformable_attention, library
from sdst.kernels.deformable_attention import flops, traffic
from sdst.kernels.deformable_attention.reference import deformable_attention as gather
from sdst.memory import peak_memory

QUERIES, HEADS, CHANNELS, SAMPLES = 10, 8, 32, 4

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


class Case(NamedTuple):
    """Videos of a batch, clips of a video, rounds of the comparison."""

    batch: int
    length: int
    rounds: int


CASES = {
    "qvhighlights": Case(32, 75, 20),
    "4,800 clips": Case(1, 4_800, 7),
    "48,000 clips": Case(1, 48_000, 3),
}


def native(*inputs: Tensor) -> Tensor:
    return deformable_attention(*inputs, implementation="native")


def by_grid_sample(value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """Deformable-DETR's eager formulation, on images of height 1."""
    batch, length, heads, channels = value.shape
    queries, samples = offsets.shape[1], offsets.shape[3]
    center, width = references[:, :, None, None].unbind(-1)
    points, weights = center + offsets * (width / 2), logits.softmax(-1)
    picture = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, 1, length)
    x = (2 * points - 1).permute(0, 2, 1, 3).reshape(batch * heads, queries, samples)
    grid = torch.stack((x, torch.zeros_like(x)), dim=-1)
    sampled = functional.grid_sample(picture, grid, align_corners=False, padding_mode="zeros")
    weights = weights.permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, samples)
    out = (sampled * weights).sum(-1).view(batch, heads, channels, queries)
    return out.permute(0, 3, 1, 2)


FORMULATIONS = {
    "native": native,
    "gather": gather,
    "grid_sample": by_grid_sample,
    "compiled gather": torch.compile(gather),
}


def make_inputs(case: Case, device: str = "cpu") -> list[Tensor]:
    """Every point is midway between two clips: no rounding moves it to another pair of clips."""
    generator = torch.Generator().manual_seed(0)
    samples = (case.batch, QUERIES, HEADS, SAMPLES)
    value = torch.randn(case.batch, case.length, HEADS, CHANNELS, generator=generator)
    center = torch.randint(case.length, samples[:2], generator=generator) / case.length
    half = torch.randint(1, case.length // 8, samples[:2], generator=generator) / case.length
    offsets = torch.randint(-2, 3, samples, generator=generator).float()
    logits = torch.randn(samples, generator=generator)
    references = torch.stack((center, 2 * half), dim=-1)
    inputs = value, references, offsets, logits
    return [x.to(device).requires_grad_() for x in inputs]


def forward(name: str, inputs: list[Tensor]) -> tuple[Tensor]:
    with torch.no_grad():
        return (FORMULATIONS[name](*inputs),)


def both(name: str, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """Gradients of every input."""
    out = FORMULATIONS[name](*inputs)
    return torch.autograd.grad(out, inputs, torch.ones_like(out))


def assert_same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], length: int) -> None:
    """Up to the rounding of positions, which are `length` times as large as the points."""
    for mine, theirs in zip(found, expected, strict=True):
        allowed = 8 * length * torch.finfo(torch.float32).eps * theirs.abs().max().item()
        torch.testing.assert_close(mine, theirs, rtol=0, atol=allowed)


def describe(case: Case, direction: str) -> dict[str, Any]:
    """Facts about every result."""
    backward = direction != "forward"
    shape = (QUERIES, HEADS, CHANNELS, SAMPLES)
    moved = traffic(case.batch, case.length, *shape)
    if backward:
        moved += traffic(case.batch, case.length, *shape, backward=True)
    return {
        "flops": (3 if backward else 1) * flops(case.batch, *shape),
        "bytes": moved,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def bench_deformable_attention(benchmark, direction: str, case: str) -> None:
    inputs, rounds = make_inputs(CASES[case]), CASES[case].rounds
    run = forward if direction == "forward" else both
    others = [name for name in FORMULATIONS if name != "native"]
    for name in others:
        assert_same(run("native", inputs), run(name, inputs), CASES[case].length)
    seconds = interleave({n: lambda n=n: run(n, inputs) for n in FORMULATIONS}, rounds)
    found = {name: ratio(seconds[name], seconds["native"]) for name in others}
    benchmark.group = f"deformable_attention {direction}, {case}"
    benchmark.extra_info |= {f"against {name}": found[name] for name in others}
    benchmark.extra_info |= describe(CASES[case], direction)
    benchmark.pedantic(run, args=("native", inputs), rounds=rounds, warmup_rounds=2)
    ratios = (f"{x['median']:.1f}x {n} ({x['min']:.1f}-{x['max']:.1f})" for n, x in found.items())
    print(f"\n{direction}, {case}: {', '.join(ratios)}")


@pytest.mark.parametrize("case", CASES)
def bench_deformable_attention_memory(benchmark, case: str) -> None:
    """Memory of a training step beyond its inputs: gradients and what is kept for them."""
    inputs = make_inputs(CASES[case])
    for name in FORMULATIONS:
        both(name, inputs)
    peak = {n: peak_memory(lambda n=n: both(n, inputs)) for n in FORMULATIONS}
    benchmark.group = f"deformable_attention memory, {case}"
    benchmark.extra_info |= {"peak bytes": peak, **describe(CASES[case], "forward+backward")}
    benchmark.pedantic(both, args=("native", inputs), rounds=CASES[case].rounds)
    peaks = (f"{name} {taken / 2**20:.1f} MiB" for name, taken in peak.items())
    print(f"\npeak memory, {case}: {', '.join(peaks)}")
