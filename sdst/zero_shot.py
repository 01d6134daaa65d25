"""What the frozen backbone finds without any training: the baseline of every report.

Clips are compared with the sentence in the backbone's joint space; every stretch of time, at many
scales, is scored by how far its clips rise above all the others; overlapping ones are dropped.
"""

from __future__ import annotations

import numpy as np

SCALE_STEP = 1.25  # ratio between one window length and the next
NMS_IOU = 0.5


def zero_shot_moments(
    clip_embedding: np.ndarray,
    text_embedding: np.ndarray,
    clip_length: float,
    duration: float,
    top: int = 10,
) -> tuple[list[list[float]], np.ndarray]:
    """Moments and saliency by similarity alone.

    Args:
        clip_embedding: `[L, E]`, in the space shared with the sentence.
        text_embedding: `[E]`.
        clip_length: seconds per clip.
        duration: seconds of the video; windows end there at the latest.
        top: most windows returned.

    Returns:
        Windows `[[start, end, score], ...]` in seconds, best first, and the saliency `[L]`, the
        cosine of each clip with the sentence.
    """
    saliency = _unit(clip_embedding) @ _unit(text_embedding)
    windows = proposals(len(saliency))
    scores = rise(saliency, windows)
    kept = suppress(windows, scores, NMS_IOU, top)
    seconds = np.minimum(windows[kept] * clip_length, duration)
    moments = np.column_stack((seconds, scores[kept])).tolist()
    return moments, saliency


def proposals(clips: int) -> np.ndarray:
    """Every window of a geometric range of lengths, `[W, 2]` as first and past-the-end clip."""
    lengths, length = [], 1
    while length < clips:
        lengths.append(length)
        length = max(length + 1, round(length * SCALE_STEP))
    lengths.append(clips)
    starts = [np.arange(clips - length + 1) for length in lengths]
    windows = [
        np.stack((start, start + length), 1) for start, length in zip(starts, lengths, strict=True)
    ]
    return np.concatenate(windows)


def rise(curve: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """How far `curve` `[L]` rises inside each window `[W, 2]`: the scan statistic.

    (mean inside - mean outside) * sqrt(inside * outside / L): the likelihood-ratio test of one
    raised stretch in white noise, which weighs long and short windows fairly. A window with nothing
    outside scores 0.
    """
    total = np.concatenate(([0.0], np.cumsum(curve, dtype=np.float64)))
    start, end = windows.T
    inside, outside = end - start, len(curve) - (end - start)
    sum_inside = total[end] - total[start]
    mean_inside = sum_inside / inside
    mean_outside = (total[-1] - sum_inside) / np.maximum(outside, 1)
    return (mean_inside - mean_outside) * np.sqrt(inside * outside / len(curve))


def suppress(windows: np.ndarray, scores: np.ndarray, limit: float, top: int) -> list[int]:
    """Rows of `windows` `[W, 2]` by falling score, none with IoU above `limit` with one before."""
    start, end = windows.T
    free = np.ones(len(windows), bool)
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    for row in order:
        if len(kept) == top:
            break
        if free[row]:
            kept.append(int(row))
            shared = np.minimum(end, end[row]) - np.maximum(start, start[row])
            union = np.maximum(end, end[row]) - np.minimum(start, start[row])
            free &= np.maximum(shared, 0) <= limit * union
    return kept


def _unit(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
