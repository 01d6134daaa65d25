"""`pool_tokens` for short, long and patch-token videos: native against PyTorch.

48,000 clips of one token each are left out: pooling one token is a copy, whose time goes into the
pages of a fresh 141 MiB output.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.tokens import COMPILED, SHAPES, STORES, compare, make_store
from sdst.kernels import library, pool_tokens
from sdst.kernels.pool_tokens import flops, reference, traffic

KEPT = 8

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("shape", [x for x in SHAPES if x != "48000 clips"])
def bench_pool_tokens(benchmark, shape: str, store: str, direction: str) -> None:
    tokens, u = make_store(shape, STORES[store])
    u = (u / 32).detach().requires_grad_()  # or the softmax is all but a maximum
    batch, length, _, width = tokens.shape
    upstream = torch.randn(batch, length, width, generator=torch.Generator().manual_seed(1))
    compiled = torch.compile(reference.pool_tokens, dynamic=False)

    def by(name: str) -> Tensor:
        if name == "torch.compile":
            return compiled(tokens, u, KEPT, None, None)
        return pool_tokens(tokens, u, KEPT, implementation=name)

    def forward(name: str) -> Tensor:
        with torch.no_grad():
            return by(name)

    def both(name: str) -> Tensor:
        return torch.autograd.grad(by(name), u, upstream)[0]

    run = forward if direction == "forward" else both
    names = ["native", "reference"]
    if (shape, STORES[store]) == COMPILED:
        names.append("torch.compile")
    for name in names[1:]:
        torch.testing.assert_close(run("native"), run(name), rtol=1e-3, atol=1e-3)
    # Whatever the store, the arithmetic is fp32.
    extra: dict[str, str | int] = {"dtype": "float32", "store": store}
    if direction == "forward":
        extra["flops"] = flops(*tokens.shape)
        extra["bytes"] = traffic(*tokens.shape, element=tokens.element_size())
    calls = {name: lambda name=name: run(name) for name in names}
    compare(benchmark, "pool_tokens", direction, calls, **extra)
