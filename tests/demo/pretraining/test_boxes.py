"""Labels of a still's patches, and the patches that a phrase means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdst.demo.pretraining.boxes import PhraseAlignment, _geometries, _meant, _things_over
from sdst.demo.pretraining.stills import Still
from sdst.demo.scenes import Look
from sdst.demo.sentences import Description, Seen

BALL = Seen(Look("small", "red", "ball"), x=0.3, y=0.9, diameter=0.2, stretch=1.0, opacity=1.0)
STAR = Seen(Look("large", "blue", "star"), x=0.5, y=0.5, diameter=0.4, stretch=1.0, opacity=1.0)


def still_of(*seen: Seen) -> Still:
    return Still(np.zeros((64, 64, 3), dtype=np.uint8), seen, ())


def test_a_small_object_lies_over_the_patch_of_its_centre() -> None:
    over, things = _things_over([still_of(BALL)], grid=4)
    assert over[0].nonzero().flatten().tolist() == [3 * 4 + 1]
    assert things == [BALL]


def test_a_large_object_lies_over_every_patch_it_covers_half() -> None:
    over, things = _things_over([still_of(STAR)], grid=4)
    assert over[0].nonzero().flatten().tolist() == [5, 6, 9, 10]
    assert things == [STAR] * 4


def test_patches_and_things_are_in_the_same_order() -> None:
    over, things = _things_over([still_of(BALL, STAR), still_of(BALL)], grid=4)
    assert over.sum(dim=1).tolist() == [5, 1]
    assert things == [STAR] * 4 + [BALL, BALL]


def test_places_are_counted_from_the_middle_of_the_frame_in_patches() -> None:
    assert _geometries([BALL], grid=4)[0, :2].tolist() == pytest.approx([-0.8, 1.6])


def test_an_empty_still_has_nothing_over_any_patch() -> None:
    over, things = _things_over([still_of()], grid=4)
    assert not over.any()
    assert things == []


def test_a_description_means_every_thing_that_fits_it() -> None:
    named = [Description(None, "red", None), Description("large", None, "star")]
    assert _meant(named, [BALL, STAR]).tolist() == [[True, False], [False, True]]


def test_alignment_is_best_where_sentence_and_patch_agree() -> None:
    alignment = PhraseAlignment(layers=1, grid=4)
    stills = [still_of(BALL), still_of(STAR)]
    named = [Description(None, "red", None), Description(None, "blue", None)]
    directions = torch.eye(8)
    video = torch.zeros(2, 17, 8) + directions[7]
    over, _ = _things_over(stills, grid=4)
    video[0, 1:][over[0]] = directions[0]
    video[1, 1:][over[1]] = directions[1]
    ids = torch.ones(2, 3, dtype=torch.long)

    def loss(first: int, second: int) -> float:
        text = torch.stack([directions[first].expand(3, 8), directions[second].expand(3, 8)])
        return alignment.loss([video], [text], ids, stills, named).item()

    assert loss(0, 1) < loss(2, 3) < loss(1, 0)
