"""`dense_attention`: batches in C++ against SDPA; long videos in a window, linear in length."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from benchmarks.measuring.interleave import interleave, ratio
from sdst.kernels import cross_attention, dense_attention
from sdst.kernels.dense_attention import flops, traffic
from sdst.memory import peak_memory

HEADS, CHANNELS = 8, 32
WINDOW, GLOBAL = 64, 4
SHORT, LONG = 4_800, 48_000
ROUNDS = 3


Inputs = tuple[Tensor, Tensor, Tensor]  # queries, keys and values


def make_inputs(length: int) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, length, HEADS, CHANNELS, generator=generator) for _ in range(3))
    return q, k, v


def windowed(inputs: Inputs) -> Tensor:
    with torch.no_grad():
        lengths = torch.tensor([inputs[0].shape[1]])
        return dense_attention(*inputs, lengths, window=WINDOW, global_clips=GLOBAL)


def everything(inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return dense_attention(*inputs, torch.tensor([inputs[0].shape[1]]))


def bench_dense_attention_growth(benchmark) -> None:
    """Ten times the length at about ten times the time and memory."""
    short, long = make_inputs(SHORT), make_inputs(LONG)
    calls = {"short": lambda: windowed(short), "long": lambda: windowed(long)}
    seconds = interleave(calls, ROUNDS)
    peak = {name: peak_memory(call) for name, call in calls.items()}
    growth = {
        "time": min(seconds["long"]) / min(seconds["short"]),
        "memory": peak["long"] / peak["short"],
    }
    benchmark.group = "dense_attention forward, long video"
    benchmark.extra_info |= {
        "growth from 4,800 to 48,000 clips": growth,
        "peak bytes": peak,
        "flops": flops(1, LONG, HEADS, CHANNELS, WINDOW, GLOBAL),
        "bytes": traffic(1, LONG, HEADS, CHANNELS),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(windowed, args=(long,), rounds=ROUNDS)
    print(
        f"\n{LONG // SHORT}x the length: {growth['time']:.1f}x the time, "
        f"{growth['memory']:.1f}x the memory ({peak['short'] / 2**20:.0f} to "
        f"{peak['long'] / 2**20:.0f} MiB)"
    )
    assert growth["memory"] < 1.5 * LONG / SHORT


def bench_dense_attention_window(benchmark) -> None:
    inputs = make_inputs(SHORT)
    q, k, v = (x[:, : WINDOW + 1] for x in inputs)  # fits into the window: both are the same there
    torch.testing.assert_close(windowed((q, k, v)), everything((q, k, v)))
    calls = {"windowed": lambda: windowed(inputs), "everything": lambda: everything(inputs)}
    seconds = interleave(calls, ROUNDS)
    found = ratio(seconds["everything"], seconds["windowed"])
    benchmark.group = "dense_attention forward, long video"
    benchmark.extra_info |= {
        "against attention to everything": found,
        "flops": flops(1, SHORT, HEADS, CHANNELS, WINDOW, GLOBAL),
        "bytes": traffic(1, SHORT, HEADS, CHANNELS),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(windowed, args=(inputs,), rounds=ROUNDS)
    print(f"\n{found['median']:.1f}x attention to everything at {SHORT} clips")


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize("keys", [75, 20], ids=["75 clips", "20 words"])
def bench_dense_attention_batch(benchmark, keys: int, backward: bool) -> None:
    """A batch of QVHighlights: clips to clips, or to words, in C++ against PyTorch's SDPA."""
    batch, queries = 32, 75
    sizes = [(batch, length, HEADS, CHANNELS) for length in (queries, keys, keys)]
    q, k, v = (torch.randn(size, requires_grad=backward) for size in sizes)
    lengths = torch.randint(keys // 2, keys + 1, (batch,))
    upstream = torch.randn(sizes[0])

    def run(implementation: str) -> None:
        out = cross_attention(q, k, v, lengths, implementation=implementation)
        if backward:
            torch.autograd.grad(out, (q, k, v), upstream)

    seconds = interleave({name: partial(run, name) for name in ("native", "sdpa")}, rounds=15)
    passes = 1 + 2 * backward
    benchmark.group = f"attention of {queries} clips to {keys} of {batch} videos"
    benchmark.extra_info |= {
        "against SDPA": ratio(seconds["sdpa"], seconds["native"]),
        "flops": passes * flops(batch, queries, HEADS, CHANNELS, keys=keys),
        "bytes": passes * traffic(batch, queries, HEADS, CHANNELS, keys=keys),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(run, args=("native",), rounds=15)
