"""An exported model answers as the model does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from sdst.config import PredictConfig
from sdst.exporting.answering import Answering, interpolated
from sdst.exporting.programs import PLAIN, Sizes, compare, expected, made_up
from sdst.grounding.decode import decode
from sdst.kernels import use_implementation
from sdst.model import SDST, ModelConfig
from sdst.model.calibration import Calibration, Logistic, Rising

CURVES = Calibration(Logistic((1.0, 2.0, 3.0), -1.0), Rising((-3.0, 0.0, 3.0), (0.1, 0.5, 0.9)))
OPTIONS = [
    PredictConfig(),
    PredictConfig(snap=0.5, smooth=True, nms="linear", nms_threshold=0.3),
    PredictConfig(round_to=2.0, nms="hard", nms_threshold=0.2),
]


def small_model(context: str = "sparse") -> SDST:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2,
        schedule=(4, 1),
        context=context,
        width=16,
        heads=2,
        queries=4,
        video_width=12,
        text_width=10,
        context_tokens=16,
        pooled_tokens=4,
    )
    model = SDST(config).eval()
    torch.nn.init.normal_(model.heads.boundaries[-1].weight, std=0.5)
    return model


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("curves", [CURVES, None])
def test_answers_are_those_of_decode(options: PredictConfig, curves: Calibration | None) -> None:
    model = small_model()
    model.calibration = curves
    network = Answering(model, 2.0, options)
    inputs = made_up(network, Sizes(3, 21, 6, 9))
    found = expected(network, inputs)
    video, text, lengths, words, durations = inputs.values()
    with torch.no_grad(), use_implementation(*PLAIN):
        outputs = model(video, text, lengths, words)
        answers = decode(outputs, lengths, durations.tolist(), 2.0, options, curves)
    for i, answer in enumerate(answers):
        windows = found["windows"][i][: found["kept"][i]]
        np.testing.assert_allclose(windows, answer.windows, atol=2e-5)
        clips = len(answer.saliency)
        np.testing.assert_allclose(found["saliency"][i][:clips], answer.saliency, atol=1e-5)
        assert not found["saliency"][i][clips:].any()
        assert ("presence" in found) == (answer.presence is not None)
        if answer.presence is not None:
            assert found["presence"][i] == pytest.approx(answer.presence, abs=1e-5)


def test_a_rising_curve_is_a_sum_of_ramps() -> None:
    curve = Rising((-3.0, -1.0, 0.5, 4.0), (0.05, 0.2, 0.25, 1.0))
    scores = torch.rand(50, generator=torch.Generator().manual_seed(0)).float()
    scores[:2] = torch.tensor([0.0, 1.0])
    np.testing.assert_allclose(interpolated(curve, scores), curve(scores.numpy()), atol=1e-6)


def test_times_are_compared_in_units_of_the_video() -> None:
    network = Answering(small_model(), 1.0, PredictConfig())
    inputs = made_up(network, Sizes(2, 20, 4, 5))
    answers = expected(network, inputs)
    moved = {**answers, "windows": answers["windows"] + np.float32([2.0, 0.0, 0.0])}
    least = inputs["durations"].min().item()
    assert compare(answers, answers, inputs) == 0
    assert compare(moved, answers, inputs) == pytest.approx(2 / least, rel=1e-3)
    assert compare({**answers, "kept": answers["kept"][:1]}, answers, inputs) == np.inf
    nothing = {**answers, "saliency": answers["saliency"] * np.nan}
    assert not compare(nothing, answers, inputs) <= 1


def test_outputs_are_a_pytree() -> None:
    network = Answering(small_model(), 1.0, PredictConfig())
    inputs = [*made_up(network, Sizes(1, 4, 4, 3)).values()][:4]
    outputs = network.model(*inputs)
    doubled = pytree.tree_map(lambda x: 2 * x, outputs)
    assert type(doubled) is type(outputs)
    assert torch.equal(doubled.saliency, 2 * outputs.saliency)
