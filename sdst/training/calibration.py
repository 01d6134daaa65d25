"""Fits the curves of `sdst.model.calibration` on the validation split, after training.

The model is unchanged, so the figures of its moments are, too. Presence is learned from the split's
own sentences and those of other videos, both kinds with the same weight, so its probability assumes
that half of all sentences hold.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import isotonic_regression, minimize

from sdst.data.annotations import Annotation
from sdst.data.samples import GroundingDataset
from sdst.evaluation.presence import MOST, calibration_error, of_others, reliability, some_of
from sdst.evaluation.retrieval import iou_over_hull
from sdst.grounding.predict import outputs_of
from sdst.model import SDST
from sdst.model.calibration import Calibration, Logistic, Rising, logit, sigmoid
from sdst.training.trainer import Trainer

FEWEST = 8  # sentences of either kind that presence needs; moments in a part
PARTS = 16  # of the moments, by their score
RISE = 1e-3  # of a curve over all its parts, so that unlike scores stay unlike
RIGHT = 0.5  # IoU from which a moment is right


def calibrate(trainer: Trainer) -> None:
    """Fit the curves of a finished run's best model and keep them with its weights."""
    model, validation = trainer.bare_model, trainer.validation
    model.calibration = None
    records = trainer.predict(validation)
    if trainer.accelerator.is_main_process:
        annotations = validation.annotations
        wordless = trainer.config.data.sentences == "none"  # nothing is asked, nothing is present
        own = validation.asking(some_of(annotations, MOST))
        others = validation.asking([] if wordless else of_others(annotations))
        model.calibration = Calibration(
            fit_presence(*(evidence_of(model, x, trainer) for x in (own, others))),
            fit_windows(*scores_and_hits(records, annotations)),
        )
        if model.calibration.presence is None and not wordless:
            trainer.say(
                f"no presence: val has {len(own)} sentences and {len(others)} pairs of a video and "
                f"another's sentence, expected {FEWEST} of both"
            )
        trainer.folder.save_model(model)
    trainer.accelerator.wait_for_everyone()
    model.load_weights(trainer.folder.model / "model.safetensors")


def reliabilities(
    records: Sequence[dict], others: Sequence[dict], annotations: Sequence[Annotation]
) -> dict[str, dict]:
    """`reliability` of a calibrated model's two probabilities, with its `error` in percent.

    Args:
        records: answers to the queries of `annotations`.
        others: answers to `of_others`.
    """
    found = {}
    scores, right = scores_and_hits(records, annotations)
    if len(scores):
        found["windows"] = scores, right, np.ones(len(right))
    if others:
        presence = np.array([record["pred_presence"] for record in (*records, *others)])
        happened = np.repeat([True, False], [len(records), len(others)])
        found["presence"] = presence, happened, balanced(happened)
    rows = {name: reliability(*samples) for name, samples in found.items()}
    return {name: {"error": calibration_error(x), "bins": x} for name, x in rows.items()}


def evidence_of(model: SDST, dataset: GroundingDataset, trainer: Trainer) -> np.ndarray:
    """[N, K + 1], `Outputs.evidence` of every query."""
    found = [
        outputs.evidence.cpu()
        for _, _, outputs in outputs_of(
            model, dataset, trainer.config.train.batch_size, trainer.accelerator.device
        )
    ]
    return torch.cat(found).numpy() if found else np.empty((0, 0))


def fit_presence(own: np.ndarray, others: np.ndarray) -> Logistic | None:
    """The curve that separates own sentences' evidence [N, D] from others' [M, D]."""
    if min(len(own), len(others)) < FEWEST:
        return None
    happened = np.repeat([True, False], [len(own), len(others)])
    return fit_logistic(np.concatenate((own, others)), happened, balanced(happened))


def fit_windows(scores: np.ndarray, right: np.ndarray) -> Rising | None:
    """The curve that says how often moments of a score [N] are right, [N] bool.

    The scores are cut into parts of equal size, each of which is a knot; where the share of right
    ones falls from a part to the next, both have their mean (isotonic regression).
    """
    if len(scores) < 2 * FEWEST:
        return None
    parts = np.array_split(np.argsort(scores), min(PARTS, len(scores) // FEWEST))
    at = np.array([logit(scores[part]).mean() for part in parts])
    shares = np.array([(right[part].sum() + 0.5) / (len(part) + 1) for part in parts])
    shares = isotonic_regression(shares).x
    if not shares[0] < shares[-1]:
        return None
    beyond = logit(np.array([0.0, 1.0])) + np.array([-1.0, 1.0])
    at, shares = np.insert(beyond, 1, at), np.insert([0.0, 1.0], 1, shares)
    shares += RISE * (np.linspace(0, 1, len(shares)) - shares)
    apart = np.append(True, np.diff(at) > 0)  # of parts with the same score, the first
    return Rising(tuple(at[apart].tolist()), tuple(shares[apart].tolist()))


def scores_and_hits(
    records: Sequence[dict], annotations: Sequence[Annotation]
) -> tuple[np.ndarray, np.ndarray]:
    """The scores [N] of all windows predicted, and which are right, [N] bool."""
    scores, hits = [np.empty(0)], [np.empty(0, bool)]
    for record, annotation in zip(records, annotations, strict=True):
        if annotation.windows:
            windows = np.asarray(record["pred_relevant_windows"])
            overlap = iou_over_hull(windows[None], np.asarray(annotation.windows)[None])[0]
            scores.append(windows[:, 2])
            hits.append(overlap.max(1) >= RIGHT)
    return np.concatenate(scores), np.concatenate(hits)


def balanced(happened: np.ndarray) -> np.ndarray:
    """Weights [N] under which what happened [N] and what did not weigh half of N each."""
    share = happened.mean()
    return 0.5 / np.where(happened, share, 1 - share)


def fit_logistic(x: np.ndarray, happened: np.ndarray, weight: np.ndarray) -> Logistic:
    """Logistic regression of `happened` [N] on x [N, D], each sample counting `weight` [N].

    Minimises sum_i weight_i * (-log p_i) + |w|^2 / 2, with w of the standardised columns: a split
    of a few samples that a line parts would else be given probabilities of 0 and 1.
    """
    mean, deviation = x.mean(0), x.std(0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    rows = np.column_stack(((x - mean) / deviation, np.ones(len(x))))
    sign = np.where(happened, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (rows @ parameters)
        pull = np.append(parameters[:-1], 0.0)
        cost = float(weight @ np.logaddexp(0.0, -margin) + pull @ pull / 2)
        return cost, pull - rows.T @ (weight * sign * sigmoid(-margin))

    *slopes, bias = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="BFGS").x
    weights = np.asarray(slopes) / deviation
    return Logistic(tuple(weights.tolist()), float(bias - weights @ mean))
