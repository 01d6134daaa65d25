"""Parts of the token ops' benchmarks: shapes, stores and the comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.measuring.interleave import interleave, ratio
from sdst.memory import peak_memory

# B, L, P, D
SHAPES = {
    "QVHighlights": (32, 75, 1, 768),
    "4800 clips": (1, 4_800, 1, 768),
    "48000 clips": (1, 48_000, 1, 768),
    "patch tokens": (8, 75, 50, 768),
}
# For a GPU, whose cache would hold some of those.
LARGE = {
    "128 videos": (128, 75, 1, 768),
    "48000 clips": SHAPES["48000 clips"],
    "patch tokens of 64 videos": (64, 75, 50, 768),
}
_ALL = SHAPES | LARGE
COMPILED = ("patch tokens", torch.float32)  # compiling takes longer than all the rest
STORES = {"fp32": torch.float32, "fp16": torch.float16}
ROUNDS = 5


def shape_of(name: str) -> tuple[int, int, int, int]:
    """B, L, P, D of a name in SHAPES or LARGE."""
    return _ALL[name]


def make_store(shape: str, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """tokens [B, L, P, D] and u [B, D] of small integers: their products are exact in fp16."""
    options = {"generator": torch.Generator(device).manual_seed(0), "device": device}
    batch, *_, width = shape_of(shape)
    tokens = torch.randint(-2, 3, shape_of(shape), dtype=torch.int8, **options).to(dtype)
    u = torch.randint(-1, 2, (batch, width), **options).float()
    return tokens, u.requires_grad_()


def compare(
    benchmark, op: str, direction: str, calls: Mapping[str, Callable[[], object]], **extra: object
) -> None:
    """Time `calls`, "native" against all others, in turns; with memory, into the benchmark."""
    for call in calls.values():
        call()  # compiles what is compiled
    seconds = interleave(calls, ROUNDS)
    against = {
        f"against {name}": ratio(taken, seconds["native"])
        for name, taken in seconds.items()
        if name != "native"
    }
    benchmark.group = f"{op} {direction}"
    benchmark.extra_info |= {
        **against,
        "peak bytes": {name: peak_memory(call) for name, call in calls.items()},
        "threads": torch.get_num_threads(),
        "device": "cpu",
        **extra,
    }
    benchmark.pedantic(calls["native"], rounds=ROUNDS, warmup_rounds=2)
    for name, found in against.items():
        print(f"\n{found['median']:.1f}x {name[8:]} ({found['min']:.1f}-{found['max']:.1f})")
