"""Under bf16 autocast, as on a GPU, a training step gives nearly the same loss and gradients."""

from __future__ import annotations

import pytest
import torch

from sdst.model import ModelConfig
from sdst.model.context import TokenSelection
from sdst.model.heads import saliency_scores
from tests.model.small import VARIANTS, make_model, random_inputs, random_targets, training_step


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


def test_clips_are_ranked_by_fp32() -> None:
    dense, sentence = torch.randn(2, 50, 16), torch.randn(2, 16)
    expected = saliency_scores(dense, sentence)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(saliency_scores(dense, sentence), expected)


def test_tokens_are_selected_by_fp32() -> None:
    config = ModelConfig(layers=2, video_width=24, text_width=16, width=32, context="sparse")
    selection, sentence = TokenSelection(config), torch.randn(2, 3, 32)
    expected = selection.direction(sentence)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selection.direction(sentence), expected)
