"""From spans to an answer: rounding, suppression, and what stays inside the video."""

from __future__ import annotations

import pytest
import torch

from sdst.config import PredictConfig
from sdst.grounding.decode import decode, rank, round_ends, smooth
from sdst.model import Outputs
from sdst.model.calibration import Calibration, Logistic, Rising


def rounded(start: float, end: float, duration: float, unit: float) -> list[float]:
    limit = torch.full((1, 1, 1), duration)
    return round_ends(torch.tensor([[[start, end]]]), limit, unit).flatten().tolist()


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((3.1, 8.7), [4.0, 8.0]),
        ((3.1, 9.3), [4.0, 9.3]),  # at the video's end
        ((4.2, 4.6), [4.0, 6.0]),  # at least one unit long
        ((8.9, 9.3), [7.3, 9.3]),
        ((0.0, 0.3), [0.0, 2.0]),
    ],
)
def test_ends_are_rounded_inside_the_video(window, expected):
    assert rounded(*window, duration=9.3, unit=2.0) == pytest.approx(expected)


def test_a_video_shorter_than_the_unit_is_one_moment():
    assert rounded(0.2, 0.7, duration=1.5, unit=2.0) == [0.0, 1.5]


def test_smoothing_averages_the_clips_that_are_there():
    curve = torch.tensor([[4.0, 0.0, 8.0, torch.nan], [5.0, torch.nan, 1.0, 2.0]])
    smoothed = smooth(curve, torch.tensor([3, 1]))
    assert smoothed[0, :3].tolist() == pytest.approx([8 / 3, 3.0, 16 / 3])
    assert smoothed[1, 0] == 5.0


ENDS = torch.tensor([[[0.0, 10.0], [1.0, 10.0], [20.0, 30.0]]])
SCORES = torch.tensor([[0.9, 0.8, 0.5]])


@pytest.mark.parametrize(
    ("options", "order", "scores"),
    [
        (PredictConfig(), [0, 1, 2], [0.9, 0.8, 0.5]),
        (PredictConfig(nms="hard", nms_threshold=0.7), [0, 2, -1], [0.9, 0.5, 0.0]),
        (PredictConfig(nms="hard", nms_threshold=0.95), [0, 1, 2], [0.9, 0.8, 0.5]),
        (PredictConfig(nms="linear", nms_threshold=0.0), [0, 2, 1], [0.9, 0.5, 0.08]),
    ],
)
def test_moments_are_ranked_and_suppressed(options, order, scores):
    found_order, found_scores = rank(ENDS, SCORES, options)
    assert found_order[0].tolist() == order
    assert found_scores[0].tolist() == pytest.approx(scores)


def test_dropped_moments_are_not_in_the_answer():
    center_width = torch.tensor([[0.25, 0.4], [0.26, 0.4], [0.8, 0.2]]).expand(1, 1, 3, 2)
    confident = torch.full((1, 1, 3), 9.0)
    outputs = Outputs(
        spans=center_width,
        class_logits=confident,
        actionness=SCORES[None],
        saliency=torch.zeros(1, 1, 10),
        dense=torch.zeros(1, 1, 10, 4),
        visual=torch.zeros(1, 1, 10, 4),
        sentence=torch.zeros(1, 1, 4),
        scale=torch.tensor(1.0),
    )
    options = PredictConfig(round_to=1.0, nms="hard", nms_threshold=0.5)
    [answer] = decode(outputs, torch.tensor([10]), [20.0], 2.0, options)
    assert answer.windows[:, :2].tolist() == [[1.0, 9.0], [14.0, 18.0]]


def test_calibrated_scores_are_in_the_order_of_the_raw_ones():
    outputs = Outputs(
        spans=torch.rand(2, 3, 5, 2),
        class_logits=torch.randn(2, 3, 5),
        actionness=torch.rand(2, 3, 5),
        saliency=torch.rand(2, 3, 8),
        dense=torch.zeros(2, 3, 8, 4),
        visual=torch.zeros(2, 3, 8, 4),
        sentence=torch.zeros(2, 3, 4),
        scale=torch.tensor(1.0),
        peaks=torch.tensor([[0.1, 0.2, 0.3], [0.9, 0.2, -0.3]]),
    )
    curves = Calibration(
        Logistic((1.0, 2.0, 5.0), -0.5), Rising((-12.0, -2.0, 2.0, 12.0), (0.0, 0.4, 0.5, 1.0))
    )
    for nms in ("none", "linear"):
        arguments = (outputs, torch.tensor([8, 8, 8]), [16.0] * 3, 2.0, PredictConfig(nms=nms))
        raw, given = decode(*arguments), decode(*arguments, curves)
        for before, after in zip(raw, given, strict=True):
            assert after.windows[:, :2].tolist() == before.windows[:, :2].tolist()
            assert (after.windows[:-1, 2] >= after.windows[1:, 2]).all()
            expected = curves.windows(before.windows[:, 2])
            assert after.windows[:, 2] == pytest.approx(expected, abs=1e-6)
            assert before.presence is None
    logits = [0.1 + 1.8 - 0.5, 0.2 + 0.4 - 0.5, 0.3 - 0.6 - 0.5]
    expected = [1 / (1 + 2.718281828**-x) for x in logits]
    assert [answer.presence for answer in given] == pytest.approx(expected)
