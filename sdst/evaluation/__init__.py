"""The field's metrics, equal to the official QVHighlights evaluator's figure for figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.highlight import evaluate_highlights
from sdst.evaluation.predictions import (
    Prediction,
    parse_predictions,
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
    pairs = _pair(predictions, annotations, source)
    windows = [prediction.windows for prediction, _ in pairs]
    moments = [_moments(annotation) for _, annotation in pairs]
    retrieval = evaluate_retrieval(windows, moments)
    highlights = _evaluate_highlights(pairs, clip_length, source)
    brief = _brief_retrieval(retrieval) | _brief_highlights(highlights)
    sections = highlights | retrieval
    return {
        "brief": brief,
        **{name: sections[name] for name in sorted(sections)},
        **evaluate_recall(windows, moments),
    }


def _pair(
    predictions: Sequence[dict], annotations: Sequence[Annotation], source: str
) -> list[tuple[Prediction, Annotation]]:
    """Every annotation with its prediction; both sides must hold the same queries."""
    if not annotations:
        raise InputError(f"{source}: there are no annotations to score against")
    by_qid = parse_predictions((source, prediction) for prediction in predictions)
    annotated = {annotation.qid for annotation in annotations}
    unknown = [qid for qid in by_qid if qid not in annotated]
    if unknown:
        raise InputError(
            f"{source}: qid {unknown[0]!r}{_and_others(unknown)} not in the annotations; "
            "predict exactly the annotated queries"
        )
    missing = [a.qid for a in annotations if a.qid not in by_qid]
    if missing:
        raise InputError(
            f"{source}: qid {missing[0]!r}{_and_others(missing)} missing; "
            "predict every annotated query"
        )
    return [(by_qid[annotation.qid], annotation) for annotation in annotations]


def _and_others(qids: list) -> str:
    return " is" if len(qids) == 1 else f" and {len(qids) - 1} more are"


def _moments(annotation: Annotation) -> np.ndarray:
    if not annotation.windows:
        raise InputError(
            f"annotations: qid {annotation.qid!r} has no relevant_windows; "
            "only labelled queries can be scored"
        )
    return np.array(annotation.windows)


def _evaluate_highlights(
    pairs: list[tuple[Prediction, Annotation]], clip_length: float, source: str
) -> dict[str, dict[str, float]]:
    rated = _all_or_none({a.qid: a.saliency for _, a in pairs}, "annotations", "saliency_scores")
    scored = _all_or_none({a.qid: p.saliency for p, a in pairs}, source, "pred_saliency_scores")
    if not (rated and scored):
        return {}
    return evaluate_highlights(
        [prediction.saliency for prediction, _ in pairs],
        [
            annotation.ratings_per_clip(_num_clips(annotation, clip_length))
            for _, annotation in pairs
        ],
    )


def _all_or_none(values: dict, source: str, key: str) -> bool:
    absent = [qid for qid, value in values.items() if value is None]
    if absent and len(absent) < len(values):
        raise InputError(
            f"{source}: qid {absent[0]!r} has no {key}, others have; expected all queries or none"
        )
    return not absent


def _num_clips(annotation: Annotation, clip_length: float) -> int:
    """Whole clips in the video, at least one; 2.1 s are three clips of 0.7 s despite rounding."""
    return max(1, int(annotation.duration / clip_length + 1e-6))


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
