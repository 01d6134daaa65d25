"""`select_tokens` for short, long and patch-token videos: native against PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.tokens import COMPILED, SHAPES, STORES, compare, make_store
from sdst.kernels import library, select_tokens
from sdst.kernels.select_tokens import flops, reference, traffic

KEPT, STRIDES, SEGMENTS = 64, (1, 2, 4, 8), 4

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("shape", SHAPES)
def bench_select_tokens(benchmark, shape: str, store: str, direction: str) -> None:
    tokens, u = make_store(shape, STORES[store])
    upstream = torch.randn(len(tokens), KEPT, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(reference.select_tokens, dynamic=False)

    def by(name: str) -> tuple[Tensor, Tensor, Tensor]:
        if name == "torch.compile":
            return compiled(tokens, u, KEPT, None, STRIDES, SEGMENTS, None)
        return select_tokens(
            tokens, u, KEPT, strides=STRIDES, segments=SEGMENTS, implementation=name
        )

    def forward(name: str) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return by(name)

    def both(name: str) -> tuple[Tensor, ...]:
        indices, scores, _ = by(name)
        return indices, *torch.autograd.grad(scores, u, upstream)

    run = forward if direction == "forward" else both
    names = ["native", "reference"]
    if (shape, STORES[store]) == COMPILED:
        names.append("torch.compile")
    for name in names[1:]:
        for mine, expected in zip(run("native"), run(name), strict=True):
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    # Whatever the store, the arithmetic is fp32.
    extra: dict[str, str | int] = {"dtype": "float32", "store": store}
    if direction == "forward":
        size = tokens.element_size()
        extra["flops"] = flops(*tokens.shape)
        extra["bytes"] = traffic(*tokens.shape, k=KEPT, element=size)
    calls = {name: lambda name=name: run(name) for name in names}
    compare(benchmark, "select_tokens", direction, calls, **extra)
