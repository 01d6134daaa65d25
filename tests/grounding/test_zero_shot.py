"""The training-free baseline finds what similarity alone can find."""

from __future__ import annotations

import numpy as np
import pytest

from sdst.grounding.zero_shot import excess, proposals, smooth, suppress, zero_shot_moments

TEXT = np.array([1.0, 0.0], np.float32)


def clips(similarity: np.ndarray) -> np.ndarray:
    """Unit embeddings `[L, 2]` whose cosine with TEXT is `similarity`."""
    return np.stack((similarity, np.sqrt(1 - similarity**2)), axis=1)


def raised(length: int, start: int, end: int) -> np.ndarray:
    curve = np.full(length, 0.1)
    curve[start:end] = 0.6
    return curve


def test_saliency_is_the_cosine_with_the_sentence():
    similarity = np.linspace(-0.5, 0.9, 8)
    _, saliency = zero_shot_moments(5 * clips(similarity), 3 * TEXT, 1.0, 8.0)
    np.testing.assert_allclose(saliency, similarity, atol=1e-6)


def test_a_raised_stretch_is_found_in_seconds():
    windows, _ = zero_shot_moments(clips(raised(40, 12, 22)), TEXT, 2.0, 80.0)
    start, end, _ = windows[0]
    assert (start, end) == pytest.approx((24.0, 44.0), abs=2.0)


def test_both_of_two_moments_are_found():
    curve = np.maximum(raised(60, 5, 15), raised(60, 40, 50))
    windows, _ = zero_shot_moments(clips(curve), TEXT, 1.0, 60.0, top=2)
    centers = sorted((start + end) / 2 for start, end, _ in windows)
    assert centers == pytest.approx([10.0, 45.0], abs=1.5)


def test_windows_come_best_first_and_no_more_than_asked():
    windows, _ = zero_shot_moments(clips(raised(40, 12, 22)), TEXT, 1.0, 40.0, top=3)
    scores = [score for *_, score in windows]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


def test_windows_end_with_the_video():
    windows, _ = zero_shot_moments(clips(raised(10, 7, 10)), TEXT, 1.0, 9.6)
    assert max(end for _, end, _ in windows) == 9.6


def test_a_single_clip_is_a_moment():
    windows, saliency = zero_shot_moments(clips(np.array([0.3])), TEXT, 2.0, 1.5)
    assert [window[:2] for window in windows] == [[0.0, 1.5]]
    assert len(saliency) == 1


def test_half_precision_features_are_taken_as_they_are():
    features = clips(raised(30, 10, 20)).astype(np.float16)
    windows, _ = zero_shot_moments(features, TEXT.astype(np.float16), 1.0, 30.0)
    assert windows[0][:2] == pytest.approx([10.0, 20.0], abs=1.5)


def test_proposals_lie_inside_and_are_unique():
    windows = proposals(37)
    assert (windows[:, 0] >= 0).all() and (windows[:, 1] <= 37).all()
    assert (windows[:, 0] < windows[:, 1]).all()
    assert len(np.unique(windows, axis=0)) == len(windows)


def test_proposals_grow_slower_than_all_pairs():
    assert len(proposals(1000)) < 40 * 1000


def test_excess_is_a_sum_over_the_window():
    curve = np.array([0.0, 0.0, 1.0, 0.0])  # half height (0.25 + 1) / 2
    np.testing.assert_allclose(excess(curve, np.array([[2, 3], [1, 3]])), [0.375, -0.25])


def test_smoothing_keeps_a_constant_curve():
    np.testing.assert_allclose(smooth(np.full(7, 0.4)), 0.4)


def test_overlapping_windows_are_suppressed():
    windows = np.array([[0, 10], [1, 10], [20, 30]])
    assert suppress(windows, np.array([1.0, 0.9, 0.5]), 0.5, 10) == [0, 2]
