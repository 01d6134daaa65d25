"""Own sentences against those of other videos: which pairs are drawn, and how they are compared."""

from __future__ import annotations

import numpy as np
import pytest

from sdst.data.annotations import Annotation
from sdst.evaluation.presence import (
    auroc,
    calibration_error,
    of_others,
    presence_figures,
    reliability,
    some_of,
)


def asked(vid: str, *queries: str) -> list[Annotation]:
    return [Annotation(f"{vid}-{i}", query, vid, 10.0) for i, query in enumerate(queries)]


MANY = [a for i in range(12) for a in asked(f"v{i}", f"thing {i} moves", f"thing {i} stops")]


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    own, others = rng.integers(0, 9, 40) + 1, rng.integers(0, 9, 70)
    pairs = [(x > y) + (x == y) / 2 for x in own for y in others]
    assert auroc(own.tolist(), others.tolist()) == pytest.approx(100 * np.mean(pairs), abs=0.005)
    assert auroc([2.0, 3.0], [0.0, 1.0]) == 100.0
    assert auroc([0.0, 1.0], [2.0, 3.0]) == 0.0


def test_every_pair_is_of_two_videos_and_drawn_once() -> None:
    drawn = of_others(MANY, most=100)
    known = {a.qid: a for a in MANY}
    assert len(drawn) == 100 == len({(a.vid, a.qid) for a in drawn})
    assert all(known[a.qid].vid != a.vid and known[a.qid].query == a.query for a in drawn)
    assert drawn == of_others(MANY, most=100) != of_others(MANY, most=100, seed=1)


def test_few_queries_give_every_pair_there_is() -> None:
    assert len(of_others(MANY)) == 12 * 22
    assert of_others(MANY[:2]) == of_others([]) == []  # of one video


def test_a_sentence_that_says_no_more_than_an_own_one_is_not_drawn() -> None:
    own = asked("film", "The small red ball spins.")
    others = asked("other", "a red ball spins", "Red BALL, small, spins", "the red ball blinks")
    drawn = of_others([*own, *others])
    assert {a.query for a in drawn if a.vid == "film"} == {"the red ball blinks"}


def test_a_large_split_is_sampled() -> None:
    assert some_of(MANY, most=5) == some_of(MANY, most=5)
    assert len({a.qid for a in some_of(MANY, most=5)}) == 5
    assert {a.qid for a in some_of(MANY)} == {a.qid for a in MANY}


def test_answers_without_presence_have_no_figure() -> None:
    own = [{"pred_presence": 0.9}, {"pred_presence": 0.4}]
    others = [{"pred_presence": 0.5}, {"pred_presence": 0.1}]
    assert presence_figures(own, others) == {"presence-AUROC": 75.0}
    assert presence_figures(own, []) == presence_figures([{}], [{}]) == {}


def test_what_happens_as_often_as_it_was_given_is_reliable() -> None:
    given = np.repeat([0.05, 0.45, 1.0], [20, 20, 10])
    happened = np.zeros(50, bool)
    happened[[0, *range(20, 29), *range(40, 50)]] = True
    rows = reliability(given, happened, np.ones(50))
    assert rows == [[0.05, 0.05, 0.4], [0.45, 0.45, 0.4], [1.0, 1.0, 0.2]]
    assert calibration_error(rows) == 0.0
    swapped = reliability(given, ~happened, np.ones(50))
    assert calibration_error(swapped) == pytest.approx(100 * (0.4 * 0.9 + 0.4 * 0.1 + 0.2))


def test_a_sample_counts_by_its_weight() -> None:
    rows = reliability(np.array([0.52, 0.52]), np.array([True, False]), np.array([3.0, 1.0]))
    assert rows == [[0.52, 0.75, 1.0]]
