"""From annotations to training targets."""

from __future__ import annotations

import numpy as np
import pytest

from sdst.data.annotations import Annotation
from sdst.data.samples import clip_ratings, is_in_sight, relative_spans


def annotated(*windows: tuple[float, float]) -> Annotation:
    return Annotation(1, "a cat jumps", "v", 10.0, windows)


def test_spans_are_center_and_width_in_units_of_the_video():
    spans = relative_spans(annotated((0, 5), (4, 10)), clips=5, clip_length=2.0)
    np.testing.assert_allclose(spans, [[0.25, 0.5], [0.7, 0.6]], rtol=1e-6)


@pytest.mark.parametrize(
    ("window", "center"), [((4.9, 5.1), 0.5), ((0.0, 0.4), 0.1), ((9.9, 10.0), 0.9)]
)
def test_a_moment_shorter_than_a_clip_becomes_one_clip_inside_the_video(window, center):
    [span] = relative_spans(annotated(window), clips=5, clip_length=2.0)
    np.testing.assert_allclose(span, [center, 0.2], rtol=1e-6)


def test_what_features_do_not_reach_is_cut_off():
    [span] = relative_spans(annotated((4, 10)), clips=4, clip_length=2.0)
    np.testing.assert_allclose(span, [0.75, 0.5], rtol=1e-6)


def test_clips_are_relevant_by_their_center():
    assert clip_ratings(annotated((1.5, 6.0)), 5, 2.0).tolist() == [0, 1, 1, 0, 0]


@pytest.mark.parametrize(("window", "clip"), [((4.1, 4.5), 2), ((9.5, 10.0), 4), ((3.5, 4.4), 1)])
def test_the_shortest_moment_has_a_relevant_clip(window, clip):
    assert np.flatnonzero(clip_ratings(annotated(window), 5, 2.0)).tolist() == [clip]


def test_moments_behind_the_end_of_a_damaged_video_are_none():
    annotation = annotated((1, 3), (9, 10))
    assert len(relative_spans(annotation, clips=3, clip_length=2.0)) == 1
    assert clip_ratings(annotation, 3, 2.0).tolist() == [1, 0, 0]
    assert is_in_sight(annotation, 3, 2.0)
    assert not is_in_sight(annotated((9, 10)), 3, 2.0)
    assert relative_spans(annotated((9, 10)), clips=3, clip_length=2.0).shape == (0, 2)


def test_ratings_behind_the_end_of_a_damaged_video_are_left_out():
    ratings = ((4, 4, 4), (2, 2, 2))
    annotation = Annotation(1, "a cat jumps", "v", 10.0, ((2, 10),), (1, 4), ratings)
    assert clip_ratings(annotation, 3, 2.0).tolist() == [0, 4, 0]
