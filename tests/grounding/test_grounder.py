"""Answers on a video come ranked, in seconds, whatever else is asked."""

from __future__ import annotations

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from sdst import Grounder, ZeroShotGrounder
from sdst.errors import InputError
from sdst.grounding.encoder import VIDEOS_IN_MEMORY
from sdst.grounding.zero_shot import zero_shot_moments
from sdst.kernels import library
from tests.processor import needs_bf16
from tests.untrained import QUERIES, small_config, write_checkpoint
from tests.videos import cut_in_pictures


def test_every_query_gets_an_answer_in_order(grounder, film):
    answers = grounder.ground(film, QUERIES)
    assert [answer.query for answer in answers] == QUERIES


def test_windows_are_ranked_and_inside_the_video(grounder, film):
    for answer in grounder.ground(film, QUERIES):
        windows = np.array(answer.windows)
        assert (windows[:, :2] >= 0).all() and (windows[:, :2] <= answer.duration).all()
        assert (windows[:, 0] <= windows[:, 1]).all()
        assert (np.diff(windows[:, 2]) <= 0).all()


def test_saliency_has_one_value_per_clip(grounder, film):
    [answer] = grounder.ground(film, QUERIES[:1])
    assert answer.saliency.shape == (round(answer.duration / answer.clip_length),)


@pytest.mark.parametrize(("top", "count"), [(1, 1), (3, 3), (99, 6)])
def test_no_more_windows_than_asked_for_or_there_are(grounder, film, top, count):
    [answer] = grounder.ground(film, QUERIES[:1], top)
    assert len(answer.windows) == count


def test_an_answer_does_not_depend_on_the_other_queries(grounder, film):
    [alone] = grounder.ground(film, QUERIES[1:])
    together = grounder.ground(film, QUERIES)[1]
    np.testing.assert_allclose(alone.windows, together.windows, atol=1e-4)


def test_a_real_video_is_grounded(grounder, shared_data):
    path = shared_data / "video" / "charades.mp4"
    [answer] = grounder.ground(path, ["a person drinks from a cup"])
    assert answer.duration == pytest.approx(30.7, abs=0.1)
    assert len(answer.windows) == 5


@needs_bf16
@pytest.mark.parametrize("stretch", [40, 8])
def test_answers_in_bf16_are_near_those_in_fp32(untrained, own_cache, film, stretch):
    found, expected = (Grounder(untrained, "cpu", precision=name) for name in ("bf16", "fp32"))
    for grounder in (found, expected):
        options = replace(grounder.config.predict, stretch=stretch, overlap=stretch // 2)
        grounder.config = replace(grounder.config, predict=options)
    for one, other in zip(found.ground(film, QUERIES), expected.ground(film, QUERIES), strict=True):
        assert not np.array_equal(one.saliency, other.saliency)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=0.02)
        np.testing.assert_allclose(
            np.array(one.windows)[:, 2], np.array(other.windows)[:, 2], atol=0.02
        )


@needs_bf16
def test_a_search_in_bf16_is_near_one_in_fp32(untrained, own_cache, films):
    del films["noise"]
    found, expected = (
        Grounder(untrained, "cpu", precision=name).search(films, QUERIES)
        for name in ("bf16", "fp32")
    )
    for one, other in zip(found, expected, strict=True):
        assert [x.score for x in one] != [x.score for x in other]
        np.testing.assert_allclose([x.score for x in one], [x.score for x in other], atol=0.02)


def test_a_precision_that_cannot_be_had_is_refused(untrained, monkeypatch):
    with pytest.raises(InputError, match="precision 'fp8': expected one of auto, fp32, bf16"):
        Grounder(untrained, "cpu", precision="fp8")
    monkeypatch.setattr(library, "multiplies_bf16", lambda: False)
    with pytest.raises(InputError, match=r"precision bf16: this CPU has no bf16 matrix multiplies"):
        Grounder(untrained, "cpu", precision="bf16")


@pytest.mark.parametrize("queries", [[], [""], ["a cat", "   "]])
def test_empty_queries_are_refused(grounder, film, queries):
    with pytest.raises(InputError, match=r"empty|no query"):
        grounder.ground(film, queries)


def test_a_string_is_one_query(grounder, film):
    [answer] = grounder.ground(film, "ball")
    assert answer.query == "ball"
    [found] = grounder.search([film], "ball")
    assert {moment.vid for moment in found} == {film.name}


def test_a_device_that_is_not_there_is_refused(untrained, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="device cuda: PyTorch finds 0 CUDA devices here"):
        Grounder(untrained, device="cuda")
    with pytest.raises(InputError, match="device 'gpu': expected cpu, cuda or cuda:N"):
        Grounder(untrained, device="gpu")


def test_a_model_of_the_demo_says_so_once_about_other_videos(grounder, film, tmp_path, caplog):
    rendered = tmp_path / "demo" / "videos" / "a.mp4"
    rendered.parent.mkdir(parents=True)
    shutil.copy(film, rendered)
    (tmp_path / "demo" / "recipe.json").write_text('{"generator": "0"}')
    grounder.ground(rendered, QUERIES)
    assert not caplog.records
    grounder.ground(film, QUERIES)
    grounder.ground(film, QUERIES)
    assert [record.message.count("a model of the demo") for record in caplog.records] == [1]


def test_a_top_below_one_is_refused(grounder, film):
    with pytest.raises(InputError, match="top is 0"):
        grounder.ground(film, QUERIES, top=0)


def test_many_queries_on_one_video_are_answered_in_batches(grounder, film, monkeypatch):
    queries = [f"{QUERIES[i % 2]}{' quickly' * (i % 3)}" for i in range(7)]
    together = grounder.ground(film, queries)
    monkeypatch.setattr(grounder, "clips_at_once", 1)
    for one, other in zip(grounder.ground(film, queries), together, strict=True):
        np.testing.assert_allclose(one.windows, other.windows, atol=1e-4)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-4)


def test_a_long_video_is_grounded_in_stretches(untrained, own_cache, film, tmp_path):
    config = small_config()
    short = replace(config, predict=replace(config.predict, stretch=8, overlap=4))
    [answer] = Grounder(write_checkpoint(tmp_path / "run", short)).ground(film, QUERIES[:1], 99)
    assert len(answer.saliency) == round(answer.duration / answer.clip_length)
    assert len(answer.windows) > config.model.queries


def test_a_damaged_video_is_answered_and_reported(grounder, film, tmp_path, caplog):
    path = tmp_path / "cut.mp4"
    cut_in_pictures(film, path)
    [answer] = grounder.ground(path, QUERIES[:1])
    [whole] = grounder.ground(film, QUERIES[:1])
    assert 0 < len(answer.saliency) < len(whole.saliency)
    assert "cut.mp4: truncated" in caplog.text


def test_a_video_is_projected_once_for_all_calls(own_cache, film, tmp_path):
    config = small_config()
    config = replace(config, model=replace(config.model, context="none"))  # asks for no sentence
    grounder = Grounder(write_checkpoint(tmp_path / "run", config))
    calls = []
    encode = grounder.model.encode_video
    grounder.model.encode_video = lambda *given: calls.append(1) or encode(*given)
    first = grounder.ground(film, QUERIES)
    again = grounder.ground(film, QUERIES[:1])
    assert len(calls) == 1
    np.testing.assert_allclose(again[0].windows, first[0].windows, rtol=1e-3, atol=1e-4)


def test_a_video_in_use_stays_projected_while_others_come_and_go(grounder, film, tmp_path):
    calls = []
    encode = grounder.model.encode_video
    grounder.model.encode_video = lambda *given: calls.append(1) or encode(*given)
    others = [shutil.copy(film, tmp_path / f"{i}.mp4") for i in range(VIDEOS_IN_MEMORY + 1)]
    for other in others:
        grounder.ground(film, QUERIES[:1])
        grounder.ground(other, QUERIES[:1])
    assert len(calls) == 1 + len(others)


def test_threads_share_a_grounder(untrained, own_cache, films, monkeypatch):
    monkeypatch.setattr("sdst.grounding.encoder.VIDEOS_IN_MEMORY", 1)
    monkeypatch.setattr("sdst.grounding.grounder.VIDEOS_IN_MEMORY", 1)
    del films["noise"]
    grounder, interval = Grounder(untrained, device="cpu"), sys.getswitchinterval()
    asked = [(list(films.values())[i % 3], QUERIES[i // 3 % 2]) for i in range(48)]
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda pair: grounder.ground(pair[0], [pair[1]]), asked))
    finally:
        sys.setswitchinterval(interval)
    alone = Grounder(untrained, device="cpu")
    for (video, query), [found] in zip(asked[:6], together, strict=False):
        [expected] = alone.ground(video, [query])
        np.testing.assert_allclose(found.windows, expected.windows, atol=1e-4)
    for first, again in zip(together, together[6:], strict=False):
        np.testing.assert_allclose(first[0].saliency, again[0].saliency, atol=1e-4)


def test_any_video_is_grounded_without_training(own_cache, film):
    grounder = ZeroShotGrounder("demo", clip_length=1.0, device="cpu")
    [first, second] = grounder.ground(film, QUERIES, top=3)
    assert len(first.windows) <= 3 and first.windows[0][1] <= first.duration
    assert not np.array_equal(first.saliency, second.saliency)
    windows, saliency = zero_shot_moments(
        grounder.encoder.encode(film).embedding,
        grounder.backbone.encode_text(QUERIES)[0].embedding.numpy(),
        1.0,
        first.duration,
    )
    assert first.windows == windows[:3]
    np.testing.assert_array_equal(first.saliency, saliency)
