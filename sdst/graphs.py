"""Calls that are replayed instead of launched kernel by kernel: CUDA graphs, behind a protocol.

A call is captured with the tensors that it reads and writes. Its replays read what has been written
into the same tensors since, and nothing of a replay passes through Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")


class Graph(Protocol[Result]):
    """A captured call; capturing computes nothing.

    Attributes:
        result: what the call gives, written anew in the same memory by every replay.
    """

    result: Result

    def replay(self) -> None:
        """Do what the call does."""
        ...


class Capture(Protocol):
    """Makes a graph of a call that has run before, so that all that is made once has been made."""

    def __call__(self, call: Callable[[], Result], /) -> Graph[Result]: ...


class CudaGraph(Generic[Result]):
    """A call as a CUDA graph."""

    def __init__(self, graph: torch.cuda.CUDAGraph, result: Result) -> None:
        self._graph, self.result = graph, result

    def replay(self) -> None:
        """Launch it on the current stream; the host does not wait."""
        self._graph.replay()


class CudaCapture:
    """Captures calls as CUDA graphs on the current device.

    They share one memory pool, so a result holds until another of the graphs is replayed.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, call: Callable[[], Result], /) -> Graph[Result]:
        """Raises: RuntimeError: the call waits for the device, or does what a graph cannot."""
        # What autocast keeps of weights is freed with its context, but not known to a graph.
        torch.clear_autocast_cache()
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        # Other threads, as those that load data, may use the device meanwhile.
        mode = "thread_local"
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode=mode):
                result = call()
        except BaseException:
            generator.graphsafe_set_state(before)  # a broken capture leaves it as if in one
            raise
        finally:
            torch.clear_autocast_cache()
        return CudaGraph(graph, result)


def once(values: Tensor) -> Tensor:
    """`values` without what a stride of 0 repeats."""
    return values[tuple(slice(1 if stride == 0 else None) for stride in values.stride())]


def buffer(values: Tensor) -> Tensor:
    """A copy, for a graph to read; what a stride of 0 repeats is stored once."""
    return once(values).clone().expand_as(values)


def fill(buffer: Tensor, values: Tensor) -> None:
    """Write values from any device into a `buffer` of the same shape; nobody waits."""
    once(buffer).copy_(once(values), non_blocking=True)
