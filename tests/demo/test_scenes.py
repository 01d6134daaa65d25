"""Objects and actions of a demo scene."""

from __future__ import annotations

import numpy as np
import pytest

from sdst.demo.labels import ask, matching, ratings, relevant_clips
from sdst.demo.scenes import (
    ACTIONS,
    COLOURS,
    GROWTH,
    RESIZING,
    SHAPES,
    SPLITS,
    Look,
    Moment,
    Stay,
    plan_scene,
    trace,
    unseen,
)

SCENES = [plan_scene(split, index, seed=0) for split in SPLITS for index in range(40)]


def combinations(split: str) -> set[tuple[str, str, str]]:
    return {
        (stay.look.shape, stay.look.colour, moment.action)
        for scene in SCENES
        if scene.split == split
        for stay in scene.stays
        for moment in stay.moments
    }


def test_a_scene_is_a_function_of_its_arguments() -> None:
    assert plan_scene("val", 3, seed=1) == plan_scene("val", 3, seed=1)
    assert plan_scene("val", 3, seed=1) != plan_scene("val", 3, seed=2)


@pytest.mark.parametrize("split", ["train", "val"])
def test_training_and_validation_never_show_a_kept_back_combination(split: str) -> None:
    shown = combinations(split)
    assert not any(unseen(Look("small", colour, shape), act) for shape, colour, act in shown)


def test_every_test_scene_asks_for_a_combination_never_seen_in_training() -> None:
    for scene in (scene for scene in SCENES if scene.split == "test"):
        first = ask(scene, 4, seed=0)[0]
        found = matching(scene, first.description, first.action)
        assert any(unseen(stay.look, moment.action) for stay, moment in found)


def test_every_pair_of_attributes_of_a_kept_back_combination_is_seen_in_training() -> None:
    for shape in SHAPES:
        for colour in COLOURS:
            for action in ACTIONS:
                others = [unseen(Look("small", c, shape), action) for c in COLOURS]
                assert not all(others)
                assert not all(unseen(Look("small", colour, s), action) for s in SHAPES)
                assert not all(unseen(Look("small", colour, shape), a) for a in ACTIONS)


def test_objects_stay_inside_the_frame() -> None:
    for scene in SCENES:
        times = np.arange(scene.duration * 4) / 4
        for stay in scene.stays:
            at = trace(stay, times, scene.duration)
            for centre in (at.x, at.y):
                assert (centre - at.diameter / 2 > -0.02).all()
                assert (centre + at.diameter / 2 < 1.02).all()


def test_two_objects_that_look_the_same_are_never_in_view_together() -> None:
    for scene in SCENES:
        for i, first in enumerate(scene.stays):
            for second in scene.stays[i + 1 :]:
                apart = first.end <= second.start or second.end <= first.start
                assert apart or first.look != second.look


def test_an_object_is_idle_before_and_after_each_moment() -> None:
    for scene in SCENES:
        for stay in scene.stays:
            edges = [stay.start, *(t for m in stay.moments for t in (m.start, m.end)), stay.end]
            assert all(b - a >= 2 for a, b in zip(edges[::2], edges[1::2], strict=True))


def test_the_same_objects_appear_outside_the_windows_of_most_queries() -> None:
    seen_elsewhere = []
    for scene in SCENES:
        for question in ask(scene, 6, seed=0):
            in_view = {
                second
                for stay in scene.stays
                if question.description.matches(stay.look)
                for second in range(stay.start, stay.end)
            }
            seen_elsewhere.append(len(in_view - set(relevant_clips(question))) >= 4)
    assert np.mean(seen_elsewhere) > 0.95


def test_twins_do_the_same_as_the_queried_object_at_other_times() -> None:
    distracted = []
    for scene in SCENES:
        for question in ask(scene, 6, seed=0):
            doing = [s for s in scene.stays for m in s.moments if m.action == question.action]
            distracted.append(any(not question.description.matches(stay.look) for stay in doing))
    assert np.mean(distracted) > 0.5


@pytest.mark.parametrize("action", ACTIONS)
def test_one_frame_a_second_tells_every_action_from_standing_still(action: str) -> None:
    look = Look("small", "red", "ball")
    amount = GROWTH if action in RESIZING else 0.45
    stay = Stay(look, 0, 14, (Moment(action, 3, 8, amount),))
    at = trace(stay, np.arange(14) + 0.5, 14)
    state = np.stack([at.x, at.y, 3 * np.log(at.diameter), at.stretch, at.opacity])
    steps = np.abs(np.diff(state, axis=1)).max(axis=0)
    # Step i leads from clip i to clip i + 1: those inside the moment are seen, those outside are 0.
    assert (steps[3:7] > 0.06).mean() >= 0.75
    assert steps[:2].max() == 0
    assert steps[8:].max() < 1e-6


def test_ratings_are_highest_in_the_middle_of_a_moment() -> None:
    middle, ends = [], []
    for scene in SCENES:
        for question in ask(scene, 6, seed=0):
            marks = np.array(ratings(scene, question, seed=0)).mean(axis=1)
            if len(question.windows) == 1 and len(marks) >= 5:
                middle.append(marks[len(marks) // 2])
                ends.append((marks[0] + marks[-1]) / 2)
    assert np.mean(middle) > np.mean(ends) + 0.5


def test_some_clip_of_every_query_is_very_good_to_some_rater() -> None:
    for scene in SCENES:
        for question in ask(scene, 6, seed=0):
            assert np.max(ratings(scene, question, seed=0)) == 4


def test_windows_hold_every_second_in_which_the_description_is_true_and_no_other() -> None:
    for scene in SCENES:
        for question in ask(scene, 6, seed=0):
            true = {
                second
                for stay in scene.stays
                for moment in stay.moments
                if moment.action == question.action
                and question.description.size in (None, stay.look.size)
                and question.description.colour in (None, stay.look.colour)
                and question.description.shape in (None, stay.look.shape)
                for second in range(moment.start, moment.end)
            }
            assert set(relevant_clips(question)) == true


def test_queries_about_one_scene_differ() -> None:
    for scene in SCENES:
        queries = [question.query.lower().rstrip(".") for question in ask(scene, 6, seed=0)]
        assert len(set(queries)) == len(queries)
