"""Under bf16 autocast, as on a GPU, a training step gives nearly the same loss and gradients."""

from __future__ import annotations

import pytest
import torch
from test_compile import VARIANTS, make_model, training_step
from test_tuner import random_inputs, random_targets


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
def test_a_bf16_step_is_close_to_the_fp32_step(variant: dict) -> None:
    model = make_model(variant)
    inputs, targets = random_inputs(model.config), random_targets()
    expected = training_step(model, inputs, targets)
    with torch.autocast("cpu", torch.bfloat16):
        found = training_step(model, inputs, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.0)
    parameters = list(model.parameters())
    whole, half = (
        torch.cat(
            [g.flatten() for g in torch.autograd.grad(loss, parameters, materialize_grads=True)]
        )
        for loss in (expected, found)
    )
    assert half.isfinite().all()
    assert torch.cosine_similarity(whole, half, dim=0) > 0.98
