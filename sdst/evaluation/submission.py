"""The files that the QVHighlights server takes: predictions of val and test, and both in a zip.

Named as https://github.com/jayleicn/moment_detr/tree/main/standalone_eval asks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from sdst.data.annotations import Annotation
from sdst.errors import InputError
from sdst.evaluation.highlight import count_clips
from sdst.evaluation.predictions import Submitted, pair_predictions, write_predictions

FILES = {"val": "hl_val_submission.jsonl", "test": "hl_test_submission.jsonl"}
ARCHIVE = "submission.zip"
# Predictions are made on the clips of the features, which may be some more or fewer than the
# annotated seconds: the official sample has windows that end 10 s late. What is further off was
# made for another clip length, or is not in seconds.
SLACK_CLIPS, SLACK_SHARE = 3, 0.25


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
    windows in its video and a saliency score per clip, give or take the length of the features.
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


def _check(prediction: Submitted, annotation: Annotation, clip_length: float, where: str) -> None:
    if prediction.windows is None or prediction.saliency is None:
        raise InputError(f"{where}: expected both pred_relevant_windows and pred_saliency_scores")
    clips = count_clips(annotation.duration, clip_length)
    slack = max(SLACK_CLIPS, SLACK_SHARE * clips)
    video = f"a video of {annotation.duration:g} s"
    starts, ends, _ = prediction.windows.T
    outside = (starts < 0) | (ends > annotation.duration + slack * clip_length)
    if outside.any():
        start, end, _ = prediction.windows[outside.argmax()]
        raise InputError(f"{where}: window [{start:g}, {end:g}] is outside {video}")
    found = len(prediction.saliency)
    if abs(found - clips) > slack:
        raise InputError(
            f"{where}: {found} pred_saliency_scores, expected {clips}, clips of {clip_length:g} s "
            f"in {video}"
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
