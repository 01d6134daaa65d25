"""From annotations to training targets and padded batches."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from sdst.data.annotations import Annotation
from sdst.data.batches import Batch, clip_ratings, is_in_sight, relative_spans


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


def batch(device: str = "cpu") -> Batch:
    """Two samples of one stored layer that serves three steps."""
    video = torch.randn(1, 2, 5, 4, 8, device=device).transpose(0, 1).expand(-1, 3, -1, -1, -1)
    text = torch.randn(2, 1, 6, 8, device=device).expand(-1, 3, -1, -1)
    others = (torch.ones(2, n + 1, device=device) for n in range(6))
    return Batch(video, text, *others)


def test_a_batch_is_pinned_as_it_lies_and_a_repeated_layer_once(monkeypatch):
    sizes = []

    def pin(values: torch.Tensor) -> torch.Tensor:
        sizes.append(values.numel())
        return values.clone()  # with the same strides, as pinning does

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    plain = batch()
    pinned = plain.pin_memory()
    for name in (f.name for f in fields(Batch) if f.name != "scales"):
        found, expected = getattr(pinned, name), getattr(plain, name)
        assert torch.equal(found, expected)
        assert found.stride() == expected.stride()
    assert pinned.scales is None
    assert sizes[:2] == [plain.video.numel() / 3, plain.text.numel() / 3]


def test_a_batch_on_a_device_is_not_pinned():
    assert batch("meta").pin_memory().video.device.type == "meta"
