"""Figures by which a collapse of the sparse stream is seen during training."""

from __future__ import annotations

import math

import pytest
import torch

from sdst.model import SDST, ModelConfig, Outputs
from sdst.model.health import collapses, sparse_health
from sdst.model.spans import distance_outside, mean_outside

HEALTHY = {"offset": 1.0, "outside": 0.1, "spread": 0.1, "slots": 4.0}


def outputs_of(centers: list[list[float]], best: list[int], offsets: list[float]) -> Outputs:
    """One step of a batch, a list of its queries' centres for each sample, all 0.2 wide."""
    nothing = torch.zeros(())
    spans = torch.tensor(centers)[None, ..., None].repeat(1, 1, 1, 2)
    spans[..., 1] = 0.2
    logits = torch.nn.functional.one_hot(torch.tensor(best), spans.shape[2]).float()[None]
    offsets = torch.tensor(offsets).expand(*spans.shape[:3], -1)
    return Outputs(
        spans, logits, torch.ones_like(logits), *[nothing] * 5, references=spans, offsets=offsets
    )


def test_the_figures_of_a_batch() -> None:
    health = sparse_health(outputs_of([[0.1, 0.5], [0.3, 0.5]], best=[0, 1], offsets=[-2.0, 1.0]))
    assert health.offset == pytest.approx(1.5)
    assert health.outside == pytest.approx(1 / 8)  # the first sample's first query looks at -0.1
    assert health.spread == pytest.approx(0.05)
    assert health.slots == pytest.approx(2.0)


def test_one_slot_for_all_samples_counts_as_one() -> None:
    health = sparse_health(outputs_of([[0.1, 0.5], [0.3, 0.5]], best=[1, 1], offsets=[0.0]))
    assert health.slots == pytest.approx(1.0)


def test_a_reader_without_points_has_no_offsets() -> None:
    config = ModelConfig(layers=2, video_width=8, text_width=8, width=16, attention="cross")
    model = SDST(config).train()
    lengths = torch.tensor([5, 3])
    outputs = model(torch.randn(2, 2, 5, 1, 8), torch.randn(2, 2, 4, 8), lengths, lengths)
    assert outputs.offsets is None
    assert sparse_health(outputs).offset == 0


def test_points_are_outside_by_their_distance_from_the_video() -> None:
    references = torch.tensor([[0.5, 0.5], [0.1, 0.4]])
    offsets = torch.tensor([[1.0, 4.0], [-1.0, 0.0]])
    expected = torch.tensor([[0.0, 0.5], [0.1, 0.0]])
    torch.testing.assert_close(distance_outside(offsets, references), expected)


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"spread": 0.01, "slots": 1.0}, "the same window"),
        ({"outside": 0.6}, "outside the video"),
    ],
)
def test_a_collapse_is_one_line(figures: dict[str, float], line: str) -> None:
    [found] = collapses({**HEALTHY, **figures})
    assert line in found
    assert "\n" not in found


@pytest.mark.parametrize("figures", [{}, {"spread": 0.0}, {"slots": 1.0}])
def test_what_still_tells_sentences_apart_is_no_collapse(figures: dict[str, float]) -> None:
    assert not collapses({**HEALTHY, **figures})


def test_outside_points_are_led_back() -> None:
    """The loss has a gradient where a sample has none."""
    offsets = torch.full((1, 4), 9.0, requires_grad=True)
    mean_outside(offsets, torch.tensor([[0.9, 0.4]])).backward()
    assert (offsets.grad > 0).all()
    assert math.isfinite(offsets.grad.sum())


def test_the_mean_outside_and_its_gradient_are_those_of_the_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(2, 3, 4, generator=generator).mul(3).requires_grad_()
    references = torch.rand(2, 3, 2, generator=generator).requires_grad_()
    found = mean_outside(offsets, references)
    expected = distance_outside(offsets, references).mean()
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, (offsets, references)) for x in (found, expected))
    torch.testing.assert_close(ours, theirs)
