"""`gathered_attention` with its projections: native against what one would write without it.

Two rivals. "projected" is the plain way to attend to picked tokens: gather them, project keys and
values, scaled_dot_product_attention. Against it stands everything that the op needs for the same
answer: absorbing the key projection in the query, and projecting the result. "reference" is the op
itself in PyTorch, eager and compiled.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.measuring.interleave import interleave, ratio
from benchmarks.measuring.tokens import SHAPES, shape_of
from sdst.kernels import gathered_attention, library, pyramid, quantize
from sdst.kernels.gathered_attention import flops, traffic
from sdst.memory import peak_memory

QUERIES, HEADS, HEAD_WIDTH, KEPT = 10, 8, 32, 64
STRIDES = (1, 2, 4, 8)
SCALE = HEAD_WIDTH**-0.5
ROUNDS = 15

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


class Problem:
    """Moment queries, a store, what was picked out of it, and the two projections."""

    def __init__(self, shape: str, stored: str, device: str = "cpu") -> None:
        self.shape = batch, length, per_clip, width = shape_of(shape)
        options = {"generator": torch.Generator(device).manual_seed(0), "device": device}

        def normal(*shape: int, std: float = 1) -> Tensor:
            return (std * torch.randn(*shape, **options)).requires_grad_()

        entries = sum(pyramid.steps(length, STRIDES)) * per_clip
        self.query = normal(batch, QUERIES, HEADS, HEAD_WIDTH)
        self.bias = normal(batch, KEPT)
        self.key = normal(HEADS, HEAD_WIDTH, width, std=width**-0.5)
        self.value = normal(HEADS, width, HEAD_WIDTH, std=width**-0.5)
        self.indices = torch.randint(entries, (batch, KEPT), **options)
        self.valid = torch.ones(batch, KEPT, dtype=torch.bool, device=device)
        tokens = torch.randn(self.shape, **options)
        self.scales = None
        if stored == "int8":
            self.tokens, self.scales = quantize(tokens)
        else:
            self.tokens = tokens.to(getattr(torch, stored))

    def attend(self, attention: Callable, absorbed: Tensor) -> Tensor:
        """The op on queries in the store's own space."""
        keys = (self.tokens, self.indices, self.bias, self.valid)
        return attention(absorbed, *keys, strides=STRIDES, scale=SCALE, scales=self.scales)

    def with_the_op(self, attention: Callable) -> Tensor:
        absorbed = torch.einsum("bmhc,hcd->bmhd", self.query, self.key)
        return torch.einsum("bmhd,hdc->bmhc", self.attend(attention, absorbed), self.value)

    def projected(self) -> Tensor:
        lengths = pyramid.valid_lengths(self.tokens, None)
        picked = pyramid.gather(
            self.tokens, self.indices, self.valid, lengths, STRIDES, self.scales
        )
        keys = torch.einsum("bkd,hcd->bhkc", picked, self.key)
        values = torch.einsum("bkd,hdc->bhkc", picked, self.value)
        bias = self.bias.masked_fill(~self.valid, -torch.inf)[:, None, None]
        out = functional.scaled_dot_product_attention(
            self.query.transpose(1, 2), keys, values, attn_mask=bias, scale=SCALE
        )
        return out.transpose(1, 2)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.query, self.bias, self.key, self.value

    def work(self, projections: bool) -> dict[str, int]:
        """FLOPs and bytes of the forward pass, with or without the two projections."""
        batch, _, _, width = self.shape
        rows, element = QUERIES * HEADS, self.tokens.element_size()
        projecting = 4 * batch * rows * HEAD_WIDTH * width if projections else 0
        return {
            "flops": flops(batch, rows, KEPT, width) + projecting,
            "bytes": traffic(batch, rows, KEPT, width, STRIDES, element),
        }


def by_name(name: str) -> Callable:
    return lambda *args, **options: gathered_attention(*args, **options, implementation=name)


@pytest.mark.parametrize(
    ("shape", "stored"),
    [
        ("patch tokens", "float32"),
        ("patch tokens", "int8"),
        *((shape, "float16") for shape in SHAPES),
    ],
)
@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
def bench_gathered_attention(benchmark, direction: str, shape: str, stored: str) -> None:
    """With its projections, against gathering, projecting and attending: time and memory."""
    problem = Problem(shape, stored)
    formulations = {
        "native": lambda: problem.with_the_op(by_name("native")),
        "reference": lambda: problem.with_the_op(by_name("reference")),
        "projected": problem.projected,
    }
    upstream = torch.randn(problem.query.shape)

    def run(name: str) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (formulations[name](),)
        return torch.autograd.grad(formulations[name](), problem.leaves, upstream)

    for rival in ("reference", "projected"):
        for mine, theirs in zip(run("native"), run(rival), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)
    seconds = interleave({name: lambda name=name: run(name) for name in formulations}, ROUNDS)
    peak = {name: peak_memory(lambda name=name: run(name)) for name in formulations}
    benchmark.group = f"gathered_attention {direction}"
    rivals = ("reference", "projected")
    benchmark.extra_info |= {
        **{f"against {name}": ratio(seconds[name], seconds["native"]) for name in rivals},
        **(problem.work(projections=True) if direction == "forward" else {}),
        "peak bytes": peak,
        "store": stored,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    ratios = ", ".join(
        f"{benchmark.extra_info[f'against {name}']['median']:.1f}x {name} "
        f"({peak[name] / 2**20:.1f} MiB)"
        for name in rivals
    )
    print(f"\n{direction}, {shape}, {stored}: {ratios}; native {peak['native'] / 2**20:.1f} MiB")


def bench_gathered_attention_compiled(benchmark) -> None:
    """The op alone, against its reference under torch.compile."""
    problem = Problem("patch tokens", "float16")
    batch, _, _, width = problem.shape
    absorbed = torch.randn(batch, QUERIES, HEADS, width) / width**0.5
    compiled = torch.compile(by_name("reference"), fullgraph=True)
    attentions = {
        "native": by_name("native"),
        "eager": by_name("reference"),
        "torch.compile": compiled,
    }

    def run(name: str) -> Tensor:
        with torch.no_grad():
            return problem.attend(attentions[name], absorbed)

    torch.testing.assert_close(run("native"), run("torch.compile"), rtol=1e-3, atol=1e-3)
    seconds = interleave({name: lambda name=name: run(name) for name in attentions}, ROUNDS)
    benchmark.group = "gathered_attention forward"
    rivals = ("eager", "torch.compile")
    benchmark.extra_info |= {
        **{f"against {name}": ratio(seconds[name], seconds["native"]) for name in rivals},
        **problem.work(projections=False),
        "store": "float16",
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=ROUNDS, warmup_rounds=2)
    found = benchmark.extra_info["against torch.compile"]
    print(f"\nthe op alone: {found['median']:.1f}x torch.compile")
