"""What the patches of a still are taught to say."""

from __future__ import annotations

import numpy as np
import pytest

from sdst.data.demo.boxes import _targets
from sdst.data.demo.scenes import COLOURS, SHAPES, Look
from sdst.data.demo.sentences import Seen
from sdst.data.demo.stills import Still

BALL = Seen(Look("small", "red", "ball"), x=0.3, y=0.9, diameter=0.2, stretch=1.0, opacity=1.0)
STAR = Seen(Look("large", "blue", "star"), x=0.5, y=0.5, diameter=0.4, stretch=1.0, opacity=1.0)


def still_of(*seen: Seen) -> Still:
    return Still(np.zeros((64, 64, 3), dtype=np.uint8), seen, ())


def test_a_small_object_lies_over_the_patch_of_its_centre() -> None:
    over, _, _ = _targets([still_of(BALL)], grid=4)
    assert np.flatnonzero(over[0]).tolist() == [3 * 4 + 1]


def test_a_large_object_lies_over_every_patch_it_covers_half() -> None:
    over, kind, _ = _targets([still_of(STAR)], grid=4)
    assert np.flatnonzero(over[0]).tolist() == [5, 6, 9, 10]
    assert (kind == (COLOURS.index("blue"), SHAPES.index("star"))).all()


def test_places_are_counted_from_the_middle_of_the_frame_in_patches() -> None:
    _, _, geometry = _targets([still_of(BALL)], grid=4)
    assert geometry[0, :2] == pytest.approx((-0.8, 1.6))


def test_an_empty_still_has_nothing_over_any_patch() -> None:
    over, kind, geometry = _targets([still_of()], grid=4)
    assert not over.any()
    assert len(kind) == len(geometry) == 0
