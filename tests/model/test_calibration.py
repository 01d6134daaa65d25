"""The curves beside a model's weights, and the evidence that presence is read from."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from sdst.errors import InputError
from sdst.files.sealed import save_tensors
from sdst.model import SDST
from sdst.model.calibration import MARGIN, UNCALIBRATED, Calibration, Logistic, Rising, sigmoid
from tests.model.small import BATCH, random_inputs, small_config

CURVES = Calibration(
    Logistic((0.25, -3.0, 1 / 3, 2.0), -1.5), Rising((-9.0, 0.1, 9.0), (0.0, 0.3, 1.0))
)


@pytest.fixture
def model() -> SDST:
    torch.manual_seed(0)
    return SDST(small_config(context="sparse")).eval()


@pytest.mark.parametrize("curves", [CURVES, Calibration(), Calibration(CURVES.presence)])
def test_curves_go_with_the_weights(model: SDST, curves: Calibration, tmp_path: Path) -> None:
    model.calibration = curves
    model.save_pretrained(tmp_path)
    assert SDST.from_pretrained(str(tmp_path)).calibration == curves


def test_a_model_saved_without_curves_has_none(model: SDST, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert SDST.from_pretrained(str(tmp_path)).calibration is None
    model.calibration = CURVES
    model.load_weights(tmp_path / "model.safetensors")
    assert model.calibration is None


@pytest.mark.parametrize(
    "change",
    [
        {"presence": {"weights": [1.0, 2.0], "bias": 0.0}},
        {"presence": {"weights": [1.0, 2.0, 3.0, float("nan")], "bias": 0.0}},
        {"presence": {"weights": [1.0, 2.0, 3.0, 4.0], "bias": "0"}},
        {"presence": {"weights": 4}},
        {"windows": {"logits": [0.0, 1.0], "probabilities": [0.5, 0.4]}},
        {"windows": {"logits": [0.0, 1.0], "probabilities": [0.5, 1.4]}},
        {"windows": {"logits": [], "probabilities": []}},
    ],
)
def test_numbers_that_are_no_curve_are_refused(change: dict, model: SDST, tmp_path: Path) -> None:
    curves = json.loads(CURVES.to_json()) | change
    config = json.dumps(dataclasses.asdict(model.config))
    file = tmp_path / "model.safetensors"
    save_tensors(file, model.state_dict(), config=config, calibration=json.dumps(curves))
    with pytest.raises(InputError, match=r"model\.safetensors: damaged \(.*take it from a copy"):
        model.load_weights(file)


def test_a_copy_has_the_curves(model: SDST) -> None:
    model.calibration = CURVES
    assert copy.deepcopy(model).calibration == CURVES


def test_peaks_are_the_greatest_cosines_of_valid_clips(model: SDST) -> None:
    inputs = random_inputs(model.config)
    with torch.no_grad():
        outputs = model(*inputs)
    for step in range(model.config.layers):
        for sample, clips in enumerate(inputs[2].tolist()):
            dense = outputs.dense[step, sample, :clips]
            cosines = functional.cosine_similarity(dense, outputs.sentence[step, sample, None])
            assert outputs.peaks[step, sample].item() == pytest.approx(
                cosines.max().item(), abs=1e-5
            )


@pytest.mark.parametrize("context", ["none", "sparse"])
def test_evidence_is_the_same_from_the_last_step_alone(context: str) -> None:
    """A query is answered so, and its curve fitted on all steps."""
    torch.manual_seed(0)
    model = SDST(small_config(context=context, schedule=(4, 2, 1))).eval()
    video, text, video_lengths, text_lengths = random_inputs(model.config)
    with torch.no_grad():
        encoded = model.encode_video(video, video_lengths)
        every = model.answer(encoded, text, text_lengths)
        last = model.answer(encoded, text, text_lengths, every_step=False)
    assert every.evidence.shape == (BATCH, model.config.layers + 1)
    assert torch.equal(every.evidence, last.evidence)
    assert (every.evidence[:, -1] == 0).all() == (context == "none")


def test_training_knows_no_peaks(model: SDST) -> None:
    assert model.train()(*random_inputs(model.config)).peaks is None


def test_a_logistic_curve_is_its_formula() -> None:
    x = np.random.default_rng(0).normal(size=(5, 4))
    expected = 1 / (1 + np.exp(-(x @ [0.25, -3.0, 1 / 3, 2.0] - 1.5)))
    assert CURVES.presence(x) == pytest.approx(expected)
    assert sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_scores_of_a_model_without_curves_stay() -> None:
    scores = np.array([0.0, 0.3, 1.0])
    assert UNCALIBRATED.scores(scores) is scores
    low, _, high = CURVES.scores(scores)
    assert 0 <= low < high <= 1 and np.isfinite(CURVES.scores(np.array([MARGIN / 9]))).all()
