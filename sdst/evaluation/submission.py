"""The files that evaluation servers take, by the protocol of the dataset.

QVHighlights: predictions of val and test, and both in a zip, named as
https://github.com/jayleicn/moment_detr/tree/main/standalone_eval asks. Its server is closed, but
the files stay the field's way to hand predictions on.

Ego4D-NLQ: one JSON object, with the keys that the evaluator of
https://github.com/EGO4D/episodic-memory reads (NLQ/VSLNet/utils/evaluate_ego4d_nlq.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.highlight import count_clips
from sdst.evaluation.predictions import pair_predictions, write_predictions
from sdst.files.publish import replace_text, replacing

# What is to be said of the server of each protocol that has files of its own.
SERVERS = {
    "qvhighlights": "the server (CodaLab) has closed; the truth of test is public, "
    "highlight_test_with_gt.jsonl of https://github.com/jayleicn/moment_detr: score with --split "
    "test, or with --predictions and --annotations",
    "ego4d-nlq": "submit it at https://eval.ai",
}
FILES = {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"}
ARCHIVE = "submission.zip"
# Predictions are made on the clips of the features, which may be some more or fewer than the
# annotated seconds: the official sample has windows that end 10 s late. What is further off was
# made for another clip length, or is not in seconds.
SLACK_CLIPS, SLACK_SHARE = 3, 0.25
NLQ_WINDOWS = 5  # that Ego4D's recall looks at


def check_server(protocol: str) -> None:
    """Refuse a protocol of a dataset whose figures nobody computes elsewhere."""
    if protocol not in SERVERS:
        raise InputError(
            f"--submit: there is no evaluation server for {protocol}; its figures are computed "
            f"here, without --submit (--dataset {' or '.join(SERVERS)} has files to submit)"
        )


def write_submission(
    folder: str | Path,
    split: str,
    predictions: Sequence[dict],
    annotations: Sequence[Annotation],
    clip_length: float,
    source: str = "predictions",
    protocol: str = "qvhighlights",
) -> list[Path]:
    """Check the predictions of a split and write the files of the protocol's server.

    Args:
        folder: is made where it is missing.
        split: `val` or `test`, which may be unlabelled.
        predictions: official records, one for each annotation.
        annotations: their queries.
        clip_length: seconds that a saliency score stands for.
        source: what to call the predictions in an error.
        protocol: one of SERVERS.

    Returns the paths: of the split's file, and of QVHighlights' archive of all that `folder` has.
    Nothing is written unless every query is predicted, with windows in its video and, but for
    Ego4D, a saliency score per clip, give or take the length of the features.
    """
    if protocol == "ego4d-nlq":
        return [_write_nlq(Path(folder), split, predictions, annotations, clip_length, source)]
    for prediction, annotation in pair_predictions(predictions, annotations, source):
        where = f"{source}: qid {annotation.qid!r}"
        if prediction.windows is None or prediction.saliency is None:
            raise InputError(
                f"{where}: expected both pred_relevant_windows and pred_saliency_scores"
            )
        _check_windows(prediction.windows, annotation, clip_length, where)
        _check_saliency(prediction.saliency, annotation, clip_length, where)
    vids = {annotation.qid: annotation.vid for annotation in annotations}
    for record in predictions:
        if record.get("vid") != vids[record["qid"]]:
            raise InputError(
                f"{source}: qid {record['qid']!r} has vid {record.get('vid')!r}, expected "
                f"{vids[record['qid']]!r} as in the annotations"
            )
    path = Path(folder) / FILES[split]
    write_predictions(path, predictions)
    _pack(Path(folder))
    return [path, Path(folder) / ARCHIVE]


def _write_nlq(
    folder: Path,
    split: str,
    predictions: Sequence[dict],
    annotations: Sequence[Annotation],
    clip_length: float,
    source: str,
) -> Path:
    results = []
    for prediction, annotation in pair_predictions(predictions, annotations, source):
        where = f"{source}: qid {annotation.qid!r}"
        if prediction.windows is None:
            raise InputError(f"{where}: expected pred_relevant_windows")
        _check_windows(prediction.windows, annotation, clip_length, where)
        uid, _, number = str(annotation.qid).rpartition("_")
        if not (uid and number.isdigit()):
            raise InputError(
                f"{where}: expected <annotation_uid>_<number>, as sdst has them from Ego4D's own "
                "nlq_*.json; give that file as annotations"
            )
        results.append(
            {
                "clip_uid": annotation.vid,
                "annotation_uid": uid,
                "query_idx": int(number),
                "predicted_times": prediction.windows[:NLQ_WINDOWS, :2].tolist(),
            }
        )
    document = {"version": "1.0", "challenge": "ego4d_nlq_challenge", "results": results}
    path = folder / f"nlq_{split}_submission.json"
    replace_text(path, json.dumps(document) + "\n")
    return path


def _slack(annotation: Annotation, clip_length: float) -> float:
    """Clips that an answer may be off."""
    return max(SLACK_CLIPS, SLACK_SHARE * count_clips(annotation.duration, clip_length))


def _check_windows(
    windows: np.ndarray, annotation: Annotation, clip_length: float, where: str
) -> None:
    late = annotation.duration + _slack(annotation, clip_length) * clip_length
    starts, ends, _ = windows.T
    outside = (starts < 0) | (ends > late)
    if outside.any():
        start, end, _ = windows[outside.argmax()]
        raise InputError(
            f"{where}: window [{start:g}, {end:g}] is outside a video of {annotation.duration:g} s"
        )


def _check_saliency(
    saliency: np.ndarray, annotation: Annotation, clip_length: float, where: str
) -> None:
    clips, found = count_clips(annotation.duration, clip_length), len(saliency)
    if abs(found - clips) > _slack(annotation, clip_length):
        raise InputError(
            f"{where}: {found} pred_saliency_scores, expected {clips}, clips of {clip_length:g} s "
            f"in a video of {annotation.duration:g} s"
        )


def _pack(folder: Path) -> None:
    """Put the existing submission files into the archive, without a folder around them."""
    with replacing(folder / ARCHIVE) as file, ZipFile(file, "w", ZIP_DEFLATED) as archive:
        for name in FILES.values():
            if (folder / name).is_file():
                archive.write(folder / name, name)
