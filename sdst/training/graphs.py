"""Training steps as graphs: one for each bucket of batches of the same shapes.

The first steps of a bucket run eagerly. Then its graph is captured, and proves itself before it is
trusted: it repeats an eager step from the same weights, batch and random state, and must give the
same loss and norm of the gradient. A proof leaves no trace: training continues from the eager step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sdst.config import TrainConfig
from sdst.data.batches import Batch
from sdst.errors import one_line
from sdst.graphs import Capture, CudaCapture, Graph

EAGER_STEPS = 2  # of a bucket, before its graph
TOLERANCE = 1e-3  # of loss and norm, relative; bf16 rounds at 4e-3


def make_capture(config: TrainConfig, device: torch.device, processes: int) -> Capture | None:
    """A maker of graphs of a run's steps; None where they run eagerly."""
    is_offered = device.type == "cuda" and processes == 1
    return CudaCapture() if config.graphs == "auto" and is_offered else None


class Step(NamedTuple):
    """Results of a training step.

    Attributes:
        terms: [] each, figures by name; `loss` is among them.
        norm: [], of the gradient before clipping.
    """

    terms: dict[str, Tensor]
    norm: Tensor


class StepGraphs:
    """A training step whose calls are replayed where the batch's bucket has a graph.

    Args:
        step: works on a batch on its device, in a fixed sequence of operations.
        state: lists the tensors that a step changes; the same ones between an eager step and the
            end of its proof.
        capture: makes a graph of a call.
        device: where the batches go.
        say: prints a line.
    """

    def __init__(
        self,
        step: Callable[[Batch], Step],
        state: Callable[[], Iterable[Tensor]],
        capture: Capture,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self._step, self._state, self._capture = step, state, capture
        self._device, self._say = device, say
        self._seen: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[Batch, Graph[Step]] | None] = {}
        self._is_off = False

    def __len__(self) -> int:
        """Graphs that are in use."""
        return sum(graph is not None for graph in self._graphs.values())

    def __call__(self, batch: Batch) -> Step:
        """Do the step on a batch from anywhere. The result holds until the next call."""
        bucket = batch.bucket
        if found := self._graphs.get(bucket):
            buffers, graph = found
            buffers.copy_from(batch)
            graph.replay()
            return graph.result
        self._seen[bucket] += 1
        batch = batch.to(self._device)
        is_eager = self._is_off or bucket in self._graphs or self._seen[bucket] <= EAGER_STEPS
        return self._step(batch) if is_eager else self._prove(batch)

    def _prove(self, batch: Batch) -> Step:
        """An eager step, and a graph of its bucket if one gives the same."""
        state = list(self._state())
        before = _Snapshot(state, self._device)
        eager = self._step(batch)
        expected = _figures(eager)
        if not expected.isfinite().all():  # as when the scale of fp16 settles
            return eager
        buffers = batch.clone()
        try:
            graph = self._capture(partial(self._step, buffers))
        except Exception as error:
            self._is_off = True
            self._say(f"train.graphs: steps run eagerly from here on ({one_line(error)})")
            return eager
        after = _Snapshot(state, self._device)
        before.restore()
        graph.replay()
        found = _figures(graph.result)
        after.restore()
        is_same = torch.allclose(found, expected, rtol=TOLERANCE, atol=0.0)
        self._graphs[batch.bucket] = (buffers, graph) if is_same else None
        if not is_same:
            clips, words, moments = batch.sizes
            self._say(
                f"train.graphs: batches of {clips} clips, {words} words and {moments} moments run "
                f"eagerly: their graph gives loss and norm {found.tolist()}, an eager step "
                f"{expected.tolist()}"
            )
        return eager


class _Snapshot:
    """Copies of tensors and the random state of a device."""

    def __init__(self, tensors: list[Tensor], device: torch.device) -> None:
        self._tensors, self._copies = tensors, [tensor.detach().clone() for tensor in tensors]
        self._device, self._random = device, _random_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, copy in zip(self._tensors, self._copies, strict=True):
            tensor.copy_(copy)
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(self._random, self._device)
        else:
            torch.set_rng_state(self._random)


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _figures(step: Step) -> Tensor:
    """[2], what a graph must give as an eager step does, on the host."""
    return torch.stack((step.terms["loss"].detach(), step.norm.detach())).double().cpu()
