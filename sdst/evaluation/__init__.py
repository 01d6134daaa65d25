"""The field's metrics, equal to the official QVHighlights evaluator's figure for figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.highlight import count_clips, evaluate_highlights
from sdst.evaluation.predictions import (
    Submitted,
    pair_predictions,
    read_predictions,
    write_predictions,
)
from sdst.evaluation.report import format_report
from sdst.evaluation.retrieval import evaluate_recall, evaluate_retrieval

__all__ = ["evaluate", "format_report", "read_predictions", "write_predictions"]


def evaluate(
    predictions: Sequence[dict],
    annotations: Sequence[Annotation],
    clip_length: float = 2.0,
    source: str = "predictions",
) -> dict:
    """Score predictions against annotations; every figure is in percent with 2 decimals.

    Args:
        predictions: official records (see `sdst.evaluation.predictions`), one for each annotation.
        annotations: queries with their moments, and ratings where the dataset has them.
        clip_length: seconds of video that a saliency score stands for.
        source: what to call the predictions in an error, their file for instance.

    Returns the official report, {"brief": {...}, "HL-min-Fair": {...}, ..., "full": {...}, ...},
    and beside it R1@0.3, R1@0.5, R1@0.7, R5@0.3, R5@0.5, R5@0.7 and mIoU. The highlight part is
    left out where annotations or predictions have no saliency, a length range where no moment
    falls in it. Any fault is an `InputError` that names `source` and the qid.
    """
    pairs = pair_predictions(predictions, annotations, source)
    windows, moments = _arrays(pairs, source)
    retrieval = evaluate_retrieval(windows, moments)
    highlights = _evaluate_highlights(pairs, clip_length, source)
    brief = _brief_retrieval(retrieval) | _brief_highlights(highlights)
    sections = highlights | retrieval
    return {
        "brief": brief,
        **{name: sections[name] for name in sorted(sections)},
        **evaluate_recall(windows, moments),
    }


def windows_and_moments(
    predictions: Sequence[dict], annotations: Sequence[Annotation], source: str = "predictions"
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of every annotation the windows [N, 3] that are predicted, and the moments [G, 2].

    Raises:
        InputError: a query has no window, or no moment.
    """
    return _arrays(pair_predictions(predictions, annotations, source), source)


def _arrays(
    pairs: list[tuple[Submitted, Annotation]], source: str
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    windows = [_windows(prediction, annotation, source) for prediction, annotation in pairs]
    return windows, [_moments(annotation) for _, annotation in pairs]


def _windows(prediction: Submitted, annotation: Annotation, source: str) -> np.ndarray:
    if prediction.windows is None:
        raise InputError(
            f"{source}: qid {annotation.qid!r} has no pred_relevant_windows; expected at least one"
        )
    return prediction.windows


def _moments(annotation: Annotation) -> np.ndarray:
    if not annotation.windows:
        raise InputError(
            f"annotations: qid {annotation.qid!r} has no relevant_windows; "
            "only labelled queries can be scored"
        )
    return np.array(annotation.windows)


def _evaluate_highlights(
    pairs: list[tuple[Submitted, Annotation]], clip_length: float, source: str
) -> dict[str, dict[str, float]]:
    rated = _all_or_none({a.qid: a.saliency for _, a in pairs}, "annotations", "saliency_scores")
    scored = _all_or_none({a.qid: p.saliency for p, a in pairs}, source, "pred_saliency_scores")
    if not (rated and scored):
        return {}
    return evaluate_highlights(
        [p.saliency for p, _ in pairs if p.saliency is not None],
        [a.ratings_per_clip(count_clips(a.duration, clip_length)) for _, a in pairs],
    )


def _all_or_none(values: dict, source: str, key: str) -> bool:
    absent = [qid for qid, value in values.items() if value is None]
    if absent and len(absent) < len(values):
        raise InputError(
            f"{source}: qid {absent[0]!r} has no {key}, others have; expected all queries or none"
        )
    return not absent


def _brief_retrieval(report: dict) -> dict[str, float]:
    full = report["full"]
    brief = {
        "MR-full-R1@0.5": full["MR-R1"]["0.5"],
        "MR-full-R1@0.7": full["MR-R1"]["0.7"],
        "MR-full-mAP": full["MR-mAP"]["average"],
        "MR-full-mAP@0.5": full["MR-mAP"]["0.5"],
        "MR-full-mAP@0.75": full["MR-mAP"]["0.75"],
    }
    by_length = [name for name in ("long", "middle", "short") if name in report]
    return brief | {f"MR-{name}-mAP": report[name]["MR-mAP"]["average"] for name in by_length}


def _brief_highlights(report: dict) -> dict[str, float]:
    return {
        f"{level}-{key.removeprefix('HL-')}": figure
        for level, figures in report.items()
        for key, figure in figures.items()
    }
