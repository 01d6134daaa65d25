"""The curves fitted after training: what they recover, and that they move no figure."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sdst.evaluation import evaluate, read_predictions
from sdst.evaluation.presence import auroc, calibration_error, reliability
from sdst.grounding.predict import predict
from sdst.model.calibration import logit, sigmoid
from sdst.pretrained.folder import load_checkpoint
from sdst.sources.dataset import open_data
from sdst.training.calibration import (
    FEWEST,
    balanced,
    fit_logistic,
    fit_presence,
    fit_windows,
    scores_and_hits,
)

WEIGHTS, BIAS = np.array([3.0, -1.0, 0.0]), 0.5


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence [N, 3] on scales of their own, and what happened by a known curve."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3)) * [1.0, 2.0, 50.0] + [0.0, 1.0, 400.0]
    return x, rng.random(count) < sigmoid(x @ WEIGHTS + BIAS)


def error(probability: np.ndarray, happened: np.ndarray) -> float:
    return calibration_error(reliability(probability, happened, np.ones(len(happened))))


def test_the_curve_that_made_the_data_is_found() -> None:
    x, happened = drawn(20_000, 0)
    curve = fit_logistic(x, happened, np.ones(len(x)))
    assert curve.weights == pytest.approx(WEIGHTS, abs=0.12)
    assert curve.bias == pytest.approx(BIAS, abs=0.7)  # at the column's mean of 400
    x, happened = drawn(20_000, 1)
    assert error(curve(x), happened) < 1.5


def test_shuffled_truth_teaches_nothing() -> None:
    x, happened = drawn(4_000, 0)
    shuffled = np.random.default_rng(2).permutation(happened)
    curve = fit_presence(x[shuffled], x[~shuffled])
    assert curve is not None
    x, happened = drawn(4_000, 1)
    assert auroc(curve(x[happened]), curve(x[~happened])) < 70
    assert error(curve(x), happened) > 10


def test_presence_is_of_a_sentence_that_holds_as_likely_as_not() -> None:
    """Nine of ten sentences are others'; without evidence, presence is a half all the same."""
    curve = fit_presence(np.zeros((50, 2)), np.zeros((450, 2)))
    assert curve is not None
    assert curve(np.zeros((1, 2))) == pytest.approx(0.5, abs=1e-4)
    weights = balanced(np.repeat([True, False], [50, 450]))
    assert weights[:50].sum() == pytest.approx(weights[50:].sum()) == pytest.approx(250)


def test_a_few_samples_that_a_line_parts_are_not_given_certainty() -> None:
    curve = fit_presence(np.full((10, 1), 0.6), np.full((10, 1), 0.2))
    assert curve is not None
    assert 0.8 < curve(np.array([[0.6]]))[0] < 0.99


def test_too_few_samples_give_no_curve() -> None:
    assert fit_presence(np.ones((FEWEST - 1, 2)), np.zeros((100, 2))) is None
    assert fit_presence(np.ones((100, 2)), np.empty((0, 0))) is None
    assert fit_windows(np.empty(0), np.empty(0, bool)) is None


def test_scores_become_shares_of_right_moments_in_the_same_order() -> None:
    rng = np.random.default_rng(0)
    scores = 0.001 + 0.998 * rng.random(4_000) ** 3
    right = rng.random(4_000) < np.sqrt(scores)  # no logistic curve, and far from the scores
    curve = fit_windows(scores[:2_000], right[:2_000])
    assert curve is not None
    given = curve(scores)
    assert (np.diff(given[np.argsort(scores)]) > 0).all()
    assert given.min() > 0 and given.max() < 1
    assert error(given[2_000:], right[2_000:]) < 4 < 15 < error(scores[2_000:], right[2_000:])


def test_scores_that_fall_with_the_truth_stay_as_they_are() -> None:
    scores = np.linspace(0, 1, 400)
    assert fit_windows(scores, scores < 0.5) is None


def test_equal_scores_are_one_knot() -> None:
    scores = np.repeat([0.0, 0.5, 1.0], [100, 20, 100])
    curve = fit_windows(scores, np.repeat([False, True], [110, 110]))
    assert curve is not None
    assert (np.diff(curve.logits) > 0).all()
    low, middle, high = curve(np.array([0.0, 0.5, 1.0]))
    assert low < 0.1 < 0.3 < middle < 0.7 < 0.9 < high


@pytest.fixture
def answered(tiny_checkpoint: Path) -> tuple[dict, list[dict], list[dict], list]:
    """The report of a run, its answers, those of its model without curves, and the queries."""
    description, model = load_checkpoint(tiny_checkpoint)
    config = description.config
    dataset = open_data(config).dataset("test")
    model.calibration = None
    plain = predict(model, dataset, progress=False, options=config.predict)
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    return (
        metrics,
        read_predictions(tiny_checkpoint / "predictions.jsonl"),
        plain,
        dataset.annotations,
    )


def test_training_calibrates_its_model(tiny_checkpoint: Path, answered: tuple) -> None:
    metrics, records, plain, _ = answered
    calibration = load_checkpoint(tiny_checkpoint)[1].calibration
    assert calibration is not None and calibration.presence is not None
    assert 0 <= metrics["report"]["presence-AUROC"] <= 100
    assert set(metrics["reliability"]) == {"presence", "windows"}
    assert (tiny_checkpoint / "reliability.png").stat().st_size > 0
    assert all(0 < record["pred_presence"] < 1 for record in records)
    assert not any("pred_presence" in record for record in plain)


def test_no_figure_moves(answered: tuple) -> None:
    metrics, records, plain, annotations = answered
    assert [[w[:2] for w in r["pred_relevant_windows"]] for r in records] == [
        [w[:2] for w in r["pred_relevant_windows"]] for r in plain
    ]
    report = {k: v for k, v in metrics["report"].items() if k != "presence-AUROC"}
    assert report == evaluate(plain, annotations, 1.0)


def test_a_window_is_right_from_half_an_overlap_on(answered: tuple) -> None:
    _, _, plain, annotations = answered
    [first, *_] = annotations
    start, end = first.windows[0]
    half, less = [start, (start + end) / 2, 0.7], [start, start + 0.49 * (end - start), 0.2]
    records = [{**plain[0], "pred_relevant_windows": [half, less]}]
    scores, right = scores_and_hits(records, [first])
    assert scores.tolist() == [0.7, 0.2] and right.tolist() == [True, False]
    assert logit(scores)[0] == pytest.approx(np.log(0.7 / 0.3))
