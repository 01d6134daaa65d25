"""Moments that snap where the saliency rises and falls."""

from __future__ import annotations

import math

import pytest
import torch

from sdst.config import PredictConfig
from sdst.grounding.decode import decode
from sdst.grounding.snapping import STEPS, snap
from sdst.model import Outputs


def box(length: int, start: int, end: int, noise: float = 0.0) -> torch.Tensor:
    curve = torch.full((1, length), 0.1)
    curve[:, start:end] = 0.6
    return curve + noise * torch.randn(1, length, generator=torch.Generator().manual_seed(0))


def snapped(start: float, end: float, curve: torch.Tensor, reach: float = 0.2) -> list[float]:
    lengths = torch.tensor([curve.shape[1]])
    return snap(torch.tensor([[[start, end]]]), curve, lengths, reach).flatten().tolist()


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_both_ends_find_the_step_of_the_curve(noise):
    assert snapped(22, 37, box(75, 20, 40, noise)) == pytest.approx([20, 40])
    assert snapped(18, 43, box(75, 20, 40, noise)) == pytest.approx([20, 40])


def test_no_end_moves_beyond_its_reach():
    assert snapped(24, 34, box(75, 20, 40), reach=0.1) == pytest.approx([23, 35])


def test_a_moment_that_nothing_beats_stays_where_it_was():
    assert snapped(20, 40, box(75, 20, 40)) == [20, 40]
    assert snapped(7.25, 31.5, torch.full((1, 75), 0.3)) == [7.25, 31.5]
    assert snapped(3.25, 4.75, box(75, 2, 6)) == [3.25, 4.75]  # 0.2 widths are no clip


def test_moments_stay_inside_the_video():
    start, end = snapped(1.0, 29.5, box(30, 0, 30, noise=0.1))
    assert 0 <= start < end <= 30


def test_what_is_behind_the_video_changes_nothing():
    curve = box(75, 20, 40, noise=0.05)
    ends = torch.tensor([[[22.0, 37.0], [30.0, 74.0]]])
    padded = torch.cat((curve, torch.full((1, 9), torch.nan)), 1)
    lengths = torch.tensor([75])
    assert torch.equal(snap(ends, padded, lengths, 0.2), snap(ends, curve, lengths, 0.2))


def test_the_best_pair_is_that_of_an_exhaustive_search():
    torch.manual_seed(0)
    length, reach = 40, 0.25
    curve = torch.randn(1, length).double()
    z = (curve - curve.mean()) / curve.std(correction=0)
    for start, end in ((5, 17), (10, 38), (0, 40), (20, 24)):
        furthest = round(reach * (end - start))
        assert furthest <= STEPS + 2
        shifts = {round(reach * (end - start) * step / STEPS) for step in range(-STEPS, STEPS + 1)}
        found = snapped(start, end, curve.float(), reach)

        def t(a: int, b: int) -> float:
            share = (b - a) / length
            spread = math.sqrt(max((b - a) * (1 - share), 0.5))
            return float(z[0, a:b].sum()) / spread

        pairs = [
            (max(start + i, 0), min(end + j, length))
            for i in shifts
            for j in shifts
            if max(start + i, 0) < min(end + j, length)
        ]
        best = max(t(*pair) for pair in pairs)
        assert t(round(found[0]), round(found[1])) == pytest.approx(best, abs=1e-4)


def test_decoding_snaps_in_seconds_and_within_the_duration():
    curve = box(20, 6, 20)
    nothing = torch.zeros(1, 1, 1)
    outputs = Outputs(
        spans=torch.tensor([[[[0.65, 0.6]]]]),  # clips 7 to 19
        class_logits=nothing,
        actionness=nothing,
        saliency=curve[None],
        dense=nothing,
        visual=nothing,
        sentence=nothing,
        scale=torch.ones(()),
    )
    lengths = torch.tensor([20])
    [answer] = decode(outputs, lengths, [39.3], 2.0, PredictConfig(snap=0.2))
    assert answer.windows[0, :2] == pytest.approx([12.0, 39.3])
    [answer] = decode(outputs, lengths, [39.3], 2.0)
    assert answer.windows[0, :2] == pytest.approx([14.0, 38.0])
