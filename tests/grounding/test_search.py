"""The moments of many videos are ranked together, from files or from a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sdst import Grounder, ZeroShotGrounder
from sdst.data.store.reader import FeatureStore, VideoFeatures
from sdst.errors import InputError
from sdst.extraction.pipeline import extract_features
from sdst.extraction.settings import Settings
from sdst.grounding.search import groups
from sdst.model.calibration import Calibration, Logistic
from tests.untrained import QUERIES


def test_moments_of_many_videos_are_ranked_by_score_and_evidence(grounder, films):
    skipped: list[str] = []
    found, other = grounder.search(films, QUERIES, top=50, skipped=skipped)
    assert {moment.vid for moment in found} == {"film0", "film1", "film2"}
    assert found != other
    [line] = skipped
    assert "noise.mp4" in line
    expected = {}
    for vid in ("film0", "film1", "film2"):
        [answer] = grounder.ground(films[vid], QUERIES[:1], 50)
        evidence = np.exp(grounder.model.scale.item() * answer.saliency.astype(float)).mean()
        expected |= {(vid, w[0], w[1]): (w[2], evidence) for w in answer.moments}
    most = max(evidence for _, evidence in expected.values())
    scores = [moment.score for moment in found]
    assert scores == sorted(scores, reverse=True)
    assert len(found) == len(expected)
    for moment in found:
        score, evidence = expected[moment.vid, moment.start, moment.end]
        assert moment.score == pytest.approx(score * evidence / most, rel=1e-3)


def test_videos_in_one_pass_are_answered_as_one_by_one(grounder, films, monkeypatch):
    readable = {vid: path for vid, path in films.items() if vid != "noise"}
    passes = []
    answers = Grounder._answers_of_all

    def counted(self, videos, *arguments):
        passes.append(len(videos))
        return answers(self, videos, *arguments)

    monkeypatch.setattr(Grounder, "_answers_of_all", counted)
    together = grounder.search(readable, QUERIES)
    monkeypatch.setattr(grounder, "clips_at_once", 1)
    alone = grounder.search(readable, QUERIES)
    assert passes == [3, 1, 1, 1]
    for found, expected in zip(together, alone, strict=True):
        assert [m.vid for m in found] == [m.vid for m in expected]
        numbers = [[(m.start, m.end, m.score) for m in moments] for moments in (found, expected)]
        np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-4)


def test_a_long_video_is_answered_by_itself():
    def video(clips: int) -> VideoFeatures:
        return VideoFeatures(np.zeros((2, clips, 1, 4), np.float16), None, 1.0)

    videos = ((str(i), video(clips)) for i, clips in enumerate([5, 5, 41, 5, 7]))
    found = groups(videos, queries=1, most=4800, stretch=40)
    assert [[vid for vid, _ in group] for group in found] == [["0", "1"], ["2"], ["3", "4"]]


def extract_films(grounder, films, out: Path, clip_length: float, **options) -> FeatureStore:
    readable = {vid: path for vid, path in films.items() if vid != "noise"}
    settings = Settings(clip_length, **options)
    return extract_features(readable, {}, grounder.backbone, out, settings, progress=False)


def test_a_store_is_searched_as_its_videos_are(grounder, films, tmp_path):
    store = extract_films(grounder, films, tmp_path / "store", grounder.encoder.clip_length)
    assert grounder.search(store, QUERIES) == grounder.search(films, QUERIES, skipped=[])


def test_a_store_of_int8_is_searched_together_as_one_by_one(grounder, films, tmp_path, monkeypatch):
    seconds = grounder.encoder.clip_length
    store = extract_films(grounder, films, tmp_path / "store", seconds, store_dtype="int8")
    [together] = grounder.search(store, QUERIES[:1])
    monkeypatch.setattr(grounder, "clips_at_once", 1)
    [alone] = grounder.search(store, QUERIES[:1])
    scores = [[moment.score for moment in found] for found in (together, alone)]
    np.testing.assert_allclose(*scores, rtol=1e-3)


def test_a_store_of_other_features_is_refused(grounder, films, tmp_path):
    store = extract_films(grounder, films, tmp_path / "store", 2 * grounder.encoder.clip_length)
    with pytest.raises(InputError, match=r"clip_length 2.0, expected 1.0.*--clip-length 1 "):
        grounder.search(store, QUERIES)


def test_a_video_that_cannot_be_searched_is_an_error_unless_told(grounder, films):
    with pytest.raises(InputError, match=r"noise\.mp4"):
        grounder.search(films, QUERIES)


def test_a_top_below_one_is_refused(grounder, films):
    with pytest.raises(InputError, match="top is 0"):
        grounder.search(films, QUERIES, top=0)


def test_files_of_one_name_in_two_folders_go_by_their_paths(grounder, films, tmp_path):
    root = tmp_path / "shelf"
    for folder, film in (("a", "film0"), ("b", "film1")):
        (root / folder).mkdir(parents=True)
        shutil.copy(films[film], root / folder / "film.mp4")
    expected = {"a/film.mp4", "b/film.mp4"}
    [of_folder] = grounder.search(root, QUERIES[0], top=50)
    assert {moment.vid for moment in of_folder} == expected
    [of_list] = grounder.search([root / "b" / "film.mp4", str(root / "a")], QUERIES[0], top=50)
    assert set(of_list) == set(of_folder)


def test_a_store_is_opened_by_its_path(grounder, films, tmp_path):
    store = extract_films(grounder, films, tmp_path / "store", grounder.encoder.clip_length)
    assert grounder.search(str(store.path), QUERIES) == grounder.search(store, QUERIES)


def test_the_frozen_backbone_searches_files_and_stores(grounder, films, tmp_path, own_cache):
    del films["noise"]
    frozen = ZeroShotGrounder("demo", clip_length=grounder.encoder.clip_length, device="cpu")
    found = frozen.search(films, QUERIES, top=4)
    assert [len(moments) for moments in found] == [4, 4]
    for moments in found:
        scores = [moment.score for moment in moments]
        assert scores == sorted(scores, reverse=True)
    # Those of a model with more layers have the same embeddings.
    store = extract_films(grounder, films, tmp_path / "store", grounder.encoder.clip_length)
    assert frozen.search(store, QUERIES, top=4) == found
    with pytest.raises(InputError, match=r"clip_length 1\.0, expected 2\.0"):
        ZeroShotGrounder("demo", clip_length=2.0, device="cpu").search(store, QUERIES)


def test_presence_ranks_the_videos_and_leaves_some_out(grounder, films):
    films.pop("noise")
    grounder.model.calibration = Calibration(Logistic((0.0, 0.0, 0.0, 30.0, 0.0), 0.0))
    [found] = grounder.search(films, QUERIES[0], top=50)
    answers = {vid: grounder.ground(path, QUERIES[0], 50)[0] for vid, path in films.items()}
    odds = {vid: x.presence / (1 - x.presence) for vid, x in answers.items()}
    expected = {
        (vid, w[0], w[1]): w[2] * odds[vid] / max(odds.values())
        for vid, answer in answers.items()
        for w in answer.moments
    }
    assert {(m.vid, m.start, m.end): m.score for m in found} == pytest.approx(expected, rel=1e-3)
    presence = {moment.vid: moment.presence for moment in found}
    assert presence == pytest.approx({vid: x.presence for vid, x in answers.items()}, abs=1e-4)
    least = sorted(presence.values())[1]
    [kept] = grounder.search(films, QUERIES[0], top=50, min_presence=least)
    assert {moment.vid for moment in kept} == {v for v, p in presence.items() if p >= least}
    assert len({moment.vid for moment in kept}) == 2


def test_a_search_by_a_model_without_presence_is_refused_one(grounder, films):
    with pytest.raises(InputError, match=r"min_presence 0\.5: this model does not report"):
        grounder.search(films, QUERIES, min_presence=0.5)
