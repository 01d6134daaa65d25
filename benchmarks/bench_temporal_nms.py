"""`temporal_nms` of a validation batch: native against a Python loop and against plain PyTorch."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import library, temporal_nms
from sdst.kernels.temporal_nms import flops, traffic

BATCH, SPANS = 32, 100
ROUNDS = 10
THRESHOLD, SIGMA = 0.5, 0.5

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def loop(spans: Tensor, scores: Tensor, method: str) -> list[list[int]]:
    """Indices taken from every video, by sorting and filtering lists as is common in the field."""
    taken = []
    for video, points in zip(spans.tolist(), scores.tolist(), strict=True):
        left = [
            (score, i, *span) for i, (score, span) in enumerate(zip(points, video, strict=True))
        ]
        order = []
        while left:
            left.sort(key=lambda x: (-x[0], x[1]))
            _, best, start, end = left.pop(0)
            order.append(best)
            rest = []
            for score, i, a, b in left:
                inside = max(0.0, min(end, b) - max(start, a))
                o = inside / ((end - start) + (b - a) - inside)
                if method == "gaussian":
                    rest.append((score * math.exp(-o * o / SIGMA), i, a, b))
                elif o <= THRESHOLD:
                    rest.append((score, i, a, b))
            left = rest
        taken.append(order)
    return taken


@pytest.mark.parametrize("method", ["hard", "gaussian"])
def bench_temporal_nms(benchmark, method: Literal["hard", "gaussian"]) -> None:
    generator = torch.Generator().manual_seed(0)
    spans = torch.rand(BATCH, SPANS, 2, generator=generator).sort(-1).values
    scores = torch.rand(BATCH, SPANS, generator=generator)

    def run(implementation: str) -> tuple[Tensor, Tensor]:
        return temporal_nms(
            spans,
            scores,
            method=method,
            threshold=THRESHOLD,
            sigma=SIGMA,
            implementation=implementation,
        )

    order, _ = run("native")
    assert [[i for i in row if i >= 0] for row in order.tolist()] == loop(spans, scores, method)
    candidates = {
        "native": lambda: run("native"),
        "reference": lambda: run("reference"),
        "loop": lambda: loop(spans, scores, method),
    }
    seconds = interleave(candidates, ROUNDS)
    taken = round((order >= 0).sum().item() / BATCH)
    benchmark.group = f"temporal_nms {method}"
    benchmark.extra_info |= {
        "against loop": ratio(seconds["loop"], seconds["native"]),
        "against reference": ratio(seconds["reference"], seconds["native"]),
        "flops": flops(BATCH, SPANS, taken),
        "bytes": traffic(BATCH, SPANS),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    for name in ("loop", "reference"):
        found = benchmark.extra_info[f"against {name}"]
        print(f"\n{method}: {found['median']:.1f}x {name} ({found['min']:.1f}-{found['max']:.1f})")
