"""The files that the QVHighlights server takes: predictions of val and test, and both in a zip.

Named as https://github.com/jayleicn/moment_detr/tree/main/standalone_eval asks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from sdst.data.annotations import Annotation
from sdst.data.files import SLACK_CLIPS, SLACK_SHARE
from sdst.errors import InputError
from sdst.evaluation.highlight import count_clips
from sdst.evaluation.predictions import Prediction, pair_predictions, write_predictions

FILES = {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"}
ARCHIVE = "submission.zip"
TOLERANCE = 0.05  # seconds that a window may end after the video, as durations are rounded


def write_submission(
    folder: str | Path,
    split: str,
    predictions: Sequence[dict],
    annotations: Sequence[Annotation],
    clip_length: float,
    source: str = "predictions",
) -> Path:
    """Check the predictions of a split and write them, then the archive of all that `folder` has.

    Args:
        folder: is made where it is missing.
        split: `val` or `test`, which may be unlabelled.
        predictions: official records, one for each annotation.
        annotations: their queries.
        clip_length: seconds that a saliency score stands for.
        source: what to call the predictions in an error.

    Returns the path of the split's file. Nothing is written unless every query is predicted, with
    windows inside its video and a saliency score per clip.
    """
    for prediction, annotation in pair_predictions(predictions, annotations, source):
        _check(prediction, annotation, clip_length, f"{source}: qid {annotation.qid!r}")
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
    return path


def _check(prediction: Prediction, annotation: Annotation, clip_length: float, where: str) -> None:
    if prediction.windows is None or prediction.saliency is None:
        raise InputError(f"{where}: expected both pred_relevant_windows and pred_saliency_scores")
    duration = annotation.duration
    outside = (prediction.windows[:, 0] < 0) | (prediction.windows[:, 1] > duration + TOLERANCE)
    if outside.any():
        start, end, _ = prediction.windows[outside.argmax()]
        raise InputError(
            f"{where}: window [{start:g}, {end:g}] is outside the video, [0, {duration:g}] s"
        )
    found, clips = len(prediction.saliency), count_clips(duration, clip_length)
    if abs(found - clips) > max(SLACK_CLIPS, SLACK_SHARE * clips):
        raise InputError(
            f"{where}: {found} pred_saliency_scores, expected {clips} for {duration:g} s in clips "
            f"of {clip_length:g} s"
        )


def _pack(folder: Path) -> None:
    """Put the submission files that are there into the archive, without a folder around them."""
    partial = folder / f".{ARCHIVE}.{os.getpid()}.partial"
    try:
        with ZipFile(partial, "w", ZIP_DEFLATED) as archive:
            for name in FILES.values():
                if (folder / name).is_file():
                    archive.write(folder / name, name)
        partial.replace(folder / ARCHIVE)
    except OSError as error:
        raise InputError(f"{folder / ARCHIVE}: cannot be written ({error.strerror})") from error
    finally:
        partial.unlink(missing_ok=True)
