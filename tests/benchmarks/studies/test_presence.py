"""The study of presence: which pairs it compares, and which moments it takes for right."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.presence import is_right, scenes_and_questions, separations
from sdst.data.annotations import Annotation
from sdst.demo.labels import matching
from sdst.grounding.search import Found


def test_a_video_in_which_a_query_holds_is_no_negative_by_the_scenes() -> None:
    queries = [Annotation(i, "a ball spins", vid, 9.0) for i, vid in enumerate("ab")]
    truth = [{"a": np.zeros((1, 2)), "b": np.zeros((1, 2))}, {"b": np.zeros((1, 2))}]
    fits = np.array([[0.8, 0.1], [0.9, 0.7]])  # the first query fits the other video better
    assert separations(fits, "ab", queries, truth) == (50.0, 100.0)


@pytest.mark.parametrize(("end", "right"), [(9.0, True), (20.0, True), (40.0, False)])
def test_a_moment_is_right_from_half_an_overlap_on(end: float, right: bool) -> None:
    assert is_right(Found("a", 0.0, end, 1.0), {"a": np.array([[0.0, 10.0]])}) == right
    assert not is_right(Found("b", 0.0, end, 1.0), {"a": np.array([[0.0, 10.0]])})


def test_every_question_holds_in_a_scene_of_the_split() -> None:
    scenes, questions = scenes_and_questions()
    assert len(scenes) == 80 and len(questions) == 320
    for i, question in enumerate(questions[:12]):
        own = list(scenes.values())[i // 4]
        assert matching(own, question.description, question.action)
