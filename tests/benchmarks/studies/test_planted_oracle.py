"""The matched filters that planted features are measured by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.planted_oracle import (
    KINDS,
    RECIPE,
    NaiveFilter,
    Oracle,
    answer,
    best_windows,
    figures,
    make_up,
    saliency_of,
    scores_of,
    windows_of,
)
from sdst.config import load_config
from sdst.data.annotations import Annotation
from sdst.sources.files import open_files
from sdst.sources.splits import read_splits

DOG = Annotation(1, "a dog jumps", "park", 20.0, windows=((4, 12),))  # clips 2 to 5 of 10
BOTH = np.array([-1, -1, 1, 1, 1, 1, -1, -1, -1, -1], float)
FIRST = np.array([-1, -1, 1, 1, -1, -1, -1, -1, -1, -1], float)
SECOND = np.array([-1, -1, -1, -1, 1, 1, -1, -1, -1, -1], float)


def test_windows_are_all_pairs_of_edges():
    assert windows_of(2).tolist() == [[0, 1], [0, 2], [1, 2]]


def test_a_window_scores_its_halves_by_a_curve_each():
    curves = np.array([[1, 2, 3, 4], [10, 20, 30, 40]], float)
    windows = np.array([[0, 4], [0, 3], [1, 2]])
    expected = [1 + 2 + 30 + 40, 1 + (2 + 20) / 2 + 30, (2 + 20) / 2]
    np.testing.assert_allclose(scores_of(curves, windows), expected)


def test_the_best_window_is_where_the_curve_is_above_zero():
    assert best_windows(np.stack((BOTH, BOTH)))[0].tolist() == [2, 6, 4]


def test_the_best_window_has_the_phases_in_order():
    assert best_windows(np.stack((FIRST, SECOND)))[0].tolist() == [2, 6, 4]
    backwards = best_windows(np.stack((SECOND, FIRST)))[0]
    assert backwards[2] < 4


def test_windows_overlap_no_better_one():
    starts, ends, _ = best_windows(np.stack((BOTH, BOTH))).T
    inside = np.minimum(ends, 6) - np.maximum(starts, 2)
    union = np.maximum(ends, 6) - np.minimum(starts, 2)
    assert (inside[1:] / union[1:]).max() <= 0.5


def test_clips_of_the_best_window_are_the_most_salient():
    ranked = np.argsort(-saliency_of(np.stack((FIRST, SECOND)), 2, 6))
    assert set(ranked[:4]) == {2, 3, 4, 5}


def test_an_answer_is_in_seconds_within_the_video():
    record = answer(DOG, np.ones((2, 11)), clip_length=2.0)
    assert record["pred_relevant_windows"][0][:2] == [0, 20]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["order", "binding", "nonlinear"])
def test_the_oracle_finds_what_the_naive_filter_does_not(kind, shared_data):
    root = shared_data / "qvhighlights"
    common = ["--data.root", str(root), "--data.planted", "true", "--data.limit", "120"]
    config = load_config(RECIPE, [*common, "--planted.noise", "0.5", *KINDS[kind]])
    splits, source = open_files(config, root, read_splits(config, root))
    train, val = (make_up(splits[name], source, config) for name in ("train", "val"))
    found = figures(Oracle(train, config.planted), train, val)
    naive = figures(NaiveFilter(train), train, val)
    assert found["MR-full-R1@0.5"] > 70
    assert naive["MR-full-R1@0.5"] < 40
