"""When planted features show a moment: clip by clip, how much of it; L clips."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import maximum_filter1d

from sdst.data.annotations import MAX_RATING, Annotation
from sdst.data.samples import clip_ratings


def relevance(annotation: Annotation, clips: int, clip_length: float) -> np.ndarray:
    """[clips], 0 to 1: the share of each clip inside the query's windows, times its mean rating.

    Ratings, where there are any, scale from 1/2 (very bad) to 1 (very good): bad highlights are
    moments, too. Where every clip has a label, the best-labelled is 1 and all below average 0.
    """
    if annotation.labels is not None:
        rating = clip_ratings(annotation, clips, clip_length)
        return rating / max(rating.max(), 1e-6)
    edges = np.arange(clips + 1) * clip_length
    inside = np.zeros(clips)
    for start, end in annotation.windows or ():
        overlap = np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)
        inside += overlap.clip(0) / clip_length
    inside = inside.clip(0, 1)
    if annotation.saliency is not None:
        inside *= (1 + annotation.saliency_per_clip(clips) / MAX_RATING) / 2
    return inside


def runs(shares: np.ndarray) -> np.ndarray:
    """[N, 2], first clip and end of every run of clips that have some of `shares` [L]."""
    return np.flatnonzero(np.diff(shares > 0, prepend=False, append=False)).reshape(-1, 2)


def halves(shares: np.ndarray) -> np.ndarray:
    """[2, L], what the first and the second half of every run of clips have of `shares` [L].

    The clip in the middle of an odd number belongs to both, half each; the two sum to `shares`.
    """
    second = np.zeros_like(shares)
    for start, end in runs(shares):
        ends = np.arange(start + 1, end + 1)
        second[start:end] = shares[start:end] * (ends - (start + end) / 2).clip(0, 1)
    return np.stack((shares - second, second))


def elsewhere(
    shares: np.ndarray, length: int, generator: np.random.Generator, shortest: int = 1
) -> np.ndarray:
    """Like `shares`, for a moment of `length` clips where they are 0, or of half as many, a quarter
    and so on down to `shortest`, if there is space."""
    moved = np.zeros_like(shares)
    length = min(length, len(shares))
    while length >= shortest:
        free = np.flatnonzero(~sliding_window_view(shares > 0, length).any(axis=1))
        if len(free):
            start = generator.choice(free)
            moved[start : start + length] = shares[shares > 0].mean()
            break
        length //= 2
    return moved


def widened(shares: np.ndarray, length: int) -> np.ndarray:
    """`shares` with some of what is around every moment, so that a decoy of `length` clips does not
    make a moment together with its neighbour."""
    margin = max(2, length // 2)
    return maximum_filter1d(shares, 2 * margin + 1, mode="constant")
