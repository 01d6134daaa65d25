"""The whole forward and the whole training step are one graph each.

A graph without a break has no place where Python looks at a value, so on a GPU nothing in it waits
for the device: matching and losses included.
"""

from __future__ import annotations

import pytest
import torch

from tests.model.small import VARIANTS, make_model, random_inputs, random_targets, training_step

pytestmark = pytest.mark.slow


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
