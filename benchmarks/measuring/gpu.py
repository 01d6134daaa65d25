"""Calls on a GPU: captured in CUDA graphs, timed by the device's own clock, and their memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch


def captured(call: Callable[[], object], times: int = 1) -> Callable[[], None]:
    """A call that replays `call`, so many times over, as one CUDA graph.

    What `call` writes is where it was when it was captured.

    Raises:
        RuntimeError: `call` waits for the device, or asks it for something.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # compiles, allocates, and makes what is made once
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return graph.replay


def seconds(call: Callable[[], object], rounds: int = 20, warmup: int = 5) -> float:
    """Median time between two events around `call` on the device; of a graph without its launch."""
    taken = []
    for turn in range(rounds + warmup):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        if turn >= warmup:
            taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)


def finished(call: Callable[[], object]) -> Callable[[], None]:
    """`call`, and waiting for what it started: for a clock of the host."""

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes that `call` needed on the device at its peak beyond what was taken before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
