"""The whole forward and the whole training step are one graph each.

A graph without a break has no place where Python looks at a value, so on a GPU nothing in it waits
for the device: matching and losses included.
"""

from __future__ import annotations

import pytest
import torch
from test_tuner import random_inputs, random_targets, small_config
from torch import Tensor

from sdst.model import SDST, LossConfig, Targets, grounding_loss

pytestmark = pytest.mark.slow
# Steps are unrolled: one or two of them show what many would.
VARIANTS = [
    {
        "attention": "rdsa",
        "context": "sparse",
        "layers": 2,
        "schedule": (2, 1),
        "reads": "saliency",
    },
    {"attention": "rdsa", "context": "none", "layers": 1},
    {"attention": "deformable", "context": "sparse", "layers": 1},
    {"attention": "cross", "context": "none", "layers": 1},
]


def make_model(variant: dict) -> SDST:
    """Without dropout, so that two runs compare."""
    torch.manual_seed(0)
    torch.compiler.reset()
    still = {"dropout": 0.0, "drop_path": 0.0, "projection_dropout": 0.0}
    return SDST(small_config(**variant, **still))


def training_step(model: SDST, inputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
    """The loss of a batch, from frozen features through matching to all terms."""
    return grounding_loss(model(*inputs), targets, LossConfig())[0]


def test_the_forward_is_one_graph() -> None:
    model = make_model(VARIANTS[0]).eval()
    inputs = random_inputs(model.config)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*inputs).spans, model(*inputs).spans)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
def test_the_training_step_is_one_graph(variant: dict) -> None:
    model = make_model(variant)
    inputs, targets = random_inputs(model.config), random_targets()
    compiled = torch.compile(training_step, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(model, inputs, targets), training_step(model, inputs, targets)
    )


def test_the_backward_of_the_training_step_is_one_graph_too() -> None:
    model = make_model(VARIANTS[0])
    inputs, targets = random_inputs(model.config), random_targets()
    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(step(model, inputs, targets), list(model.parameters()))
        for step in (compiled, training_step)
    )
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
