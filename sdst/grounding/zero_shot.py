"""Moments found by the frozen backbone without any training: the baseline of every report.

Clips are compared with the sentence in the backbone's joint space; every window, at many
scales, is scored by how much its clips exceed half the height of the smoothed curve; overlapping
ones are dropped. A weak baseline would flatter the model: on the demo's validation split this rule
beat thresholds at the mean and at quantiles, and contrast with the clips outside a window.
"""

from __future__ import annotations

import numpy as np

SCALE_STEP = 1.25  # ratio between one window length and the next
SMOOTHING = 2  # clips averaged on either side
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
    return salient_windows(saliency, clip_length, duration, top), saliency


def salient_windows(
    saliency: np.ndarray, clip_length: float, duration: float, top: int = 10
) -> list[list[float]]:
    """The windows `[[start, end, score], ...]` of `zero_shot_moments` in a saliency `[L]`."""
    windows = proposals(len(saliency))
    scores = excess(smooth(saliency), windows)
    kept = suppress(windows, scores, NMS_IOU, top)
    seconds = np.minimum(windows[kept] * clip_length, duration)
    return np.column_stack((seconds, scores[kept])).tolist()


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


def smooth(curve: np.ndarray) -> np.ndarray:
    """Running mean of `curve` `[L]` over `2 * SMOOTHING + 1` clips; the ends are held."""
    width = 2 * SMOOTHING + 1
    return np.convolve(np.pad(curve, SMOOTHING, mode="edge"), np.full(width, 1 / width), "valid")


def excess(curve: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Sum over each window `[W, 2]` of `curve` `[L]` less its half height, (mean + max) / 2.

    The best window ends where the curve falls below half of its peak.
    """
    above = curve - (curve.mean() + curve.max()) / 2
    total = np.concatenate(([0.0], np.cumsum(above, dtype=np.float64)))
    return total[windows[:, 1]] - total[windows[:, 0]]


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
