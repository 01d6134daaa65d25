"""A training step is a fixed sequence of operations that never asks the host: it can be a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.measuring.steps import TrainingStep, random_inputs, random_targets
from sdst.config import load_config
from sdst.kernels.dispatch import use_implementation
from sdst.training.optim import place_rates

SMALL = {"layers": 2, "width": 32, "video_width": 16, "text_width": 16, "queries": 5}
BATCH = 4
# Operations whose result, or its shape, the host has to wait for.
ASK_THE_HOST = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "is_nonzero",
    "equal.default",
    "item",
    "unique",
    "bincount",
    "repeat_interleave.Tensor",
)


class Trace(TorchDispatchMode):
    """Notes every operation with the shapes and types of its tensors and the rest by value."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[str, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append((str(func), tuple(map(_noted, tree_leaves((args, kwargs))))))
        return func(*args, **(kwargs or {}))


def _noted(value: Any) -> Any:
    if isinstance(value, Tensor):
        # A number on the host is an argument of a launch; a tensor is only an address.
        return tuple(value.shape), value.dtype
    return value if isinstance(value, int | float | str | None) else str(value)


def other_data(step: TrainingStep, lengths: list[int], seed: int) -> None:
    """Write another batch into the step's own tensors."""
    torch.manual_seed(seed)
    for mine, new in zip(step.inputs, random_inputs(step.config.model, BATCH), strict=True):
        mine.copy_(new)
    for mine, new in zip(
        vars(step.targets).values(), vars(random_targets(BATCH)).values(), strict=True
    ):
        mine.copy_(new)
    for clips in (step.inputs[2], step.targets.lengths):
        clips.copy_(torch.tensor(lengths))
    step.inputs[3].copy_(torch.tensor([5, 20, 7, 9]))
    step.targets.counts.copy_(torch.tensor([1, 3, 0, 2]))
    step.targets.positive_clip.copy_(torch.tensor([0, -1, 3, 0]))


def trace(options: list[str]) -> list[list[tuple[str, tuple]]]:
    """Two steps with other data and another learning rate, operation by operation."""
    overrides = [part for k, v in SMALL.items() for part in (f"--model.{k}", str(v))]
    config = load_config("qvhighlights_internvideo2", [*overrides, *options])
    step = TrainingStep(config, BATCH, precision=torch.bfloat16)
    place_rates(step.optimizer, torch.device("cpu"))
    for _ in range(2):
        step()
    found = []
    for lengths, rate in (([75, 75, 75, 75], 1e-3), ([10, 75, 33, 1], 5e-4)):
        other_data(step, lengths, len(found))
        for group in step.optimizer.param_groups:
            group["lr"].fill_(rate)
        with Trace() as noted:
            step()
        found.append(noted.operations)
    return found


@pytest.fixture(autouse=True)
def as_on_a_gpu() -> Iterator[None]:
    """Attention by PyTorch, as there."""
    with use_implementation("sdpa"):
        yield


@pytest.mark.parametrize(
    "options",
    [
        ["--model.context", "none"],
        ["--model.context", "sparse"],
        ["--model.schedule", "[2,1]"],
        ["--loss.query_dropout", "0.2", "--loss.outside", "1"],
    ],
    ids=["none", "sparse", "schedule", "query dropout"],
)
def test_two_steps_with_other_data_are_the_same_operations(options: list[str]) -> None:
    first, second = trace(options)
    assert len(first) > 300
    assert first == second
    asked = {name for name, _ in first if any(part in name for part in ASK_THE_HOST)}
    assert not asked


def test_a_step_that_asks_the_host_is_seen() -> None:
    with Trace() as noted:
        torch.ones(3).sum().item()
    assert any("_local_scalar_dense" in name for name, _ in noted.operations)
