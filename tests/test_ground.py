"""Grounding: a video is encoded once, answers come ranked in seconds, faults come in one line."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst import encoding as module
from sdst import grounder as answering
from sdst.search import groups
from sdst.backbones import load_backbone
from sdst.checkpoint import RunFolder
from sdst.config import Config, load_config
from sdst.data.demo.render import write_video
from sdst.data.demo.scenes import plan_scene
from sdst.data.features import FeatureStore, VideoFeatures
from sdst.encoding import VIDEOS_IN_MEMORY
from sdst.errors import InputError, run
from sdst.extract import extract_features
from sdst.ground import format_table, main
from sdst.grounder import Grounder, Grounding, ZeroShotGrounder, format_time
from sdst.model import SDST
from sdst.zero_shot import zero_shot_moments
from tests.test_extract import cut_in_pictures

QUERIES = ["the red square spins", "a small blue circle moves to the left"]


def write_checkpoint(path: Path, config: Config, fingerprint: str | None = None) -> Path:
    """An untrained model, laid out as training on the demo's backbone leaves one."""
    backbone = load_backbone(config.data.backbone, config.model.layers)
    folder = RunFolder(path)
    folder.begin(config)
    folder.settle(config, {"fingerprint": fingerprint or backbone.fingerprint})
    torch.manual_seed(0)
    folder.save_model(SDST(config.model))
    return path


def small_config() -> Config:
    config = load_config("demo")
    return replace(config, model=replace(config.model, width=32, queries=6))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("ground") / "run", small_config())


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(plan_scene("val", 0, 0), path)
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grounding"


@pytest.fixture
def grounder(checkpoint: Path, cache: Path) -> Grounder:
    return Grounder(checkpoint, device="cpu")


@pytest.fixture
def extractions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The videos that were decoded and encoded, in order."""
    calls: list[Path] = []
    extract = module.extract_features

    def counted(videos, *arguments, **options):
        calls.extend(videos.values())
        return extract(videos, *arguments, **options)

    monkeypatch.setattr(module, "extract_features", counted)
    return calls


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


def test_a_video_is_encoded_once_in_a_process(grounder, film, extractions):
    grounder.ground(film, QUERIES[:1])
    grounder.ground(film, QUERIES[1:])
    assert extractions == [film]


def test_a_video_is_encoded_once_over_processes(checkpoint, cache, film, extractions):
    first = Grounder(checkpoint, device="cpu").ground(film, QUERIES)
    second = Grounder(checkpoint, device="cpu").ground(film, QUERIES)
    assert extractions == [film]
    assert [a.windows for a in first] == [a.windows for a in second]


def test_a_changed_video_is_encoded_anew(grounder, film, tmp_path, extractions):
    path = tmp_path / "changing.mp4"
    path.write_bytes(film.read_bytes())
    grounder.ground(path, QUERIES[:1])
    write_video(plan_scene("val", 1, 0), path)
    grounder.ground(path, QUERIES[:1])
    assert extractions == [path, path]


def test_other_clip_settings_are_encoded_anew(grounder, film, tmp_path, extractions):
    config = small_config()
    other = replace(config, data=replace(config.data, clip_length=2.0))
    grounder.ground(film, QUERIES[:1])
    Grounder(write_checkpoint(tmp_path / "run", other), "cpu").ground(film, QUERIES[:1])
    assert extractions == [film, film]


def test_a_damaged_cache_is_made_anew(grounder, checkpoint, cache, film, extractions):
    grounder.ground(film, QUERIES[:1])
    [store] = cache.iterdir()
    (store / "video_tokens.bin").write_bytes(b"short")
    Grounder(checkpoint, device="cpu").ground(film, QUERIES[:1])
    assert extractions == [film, film]


def test_a_cache_that_cannot_be_written_is_done_without(grounder, film, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("SDST_CACHE", str(blocked))
    assert len(grounder.ground(film, QUERIES[:1])) == 1


def test_memory_holds_the_videos_used_last(grounder, film, tmp_path):
    for i in range(module.VIDEOS_IN_MEMORY + 2):
        path = tmp_path / f"{i}.mp4"
        path.write_bytes(film.read_bytes())
        grounder.encoder.encode(path)
    assert len(grounder.encoder._recent) == module.VIDEOS_IN_MEMORY


def test_a_real_video_is_grounded(grounder, shared_data):
    path = shared_data / "video" / "charades.mp4"
    [answer] = grounder.ground(path, ["a person drinks from a cup"])
    assert answer.duration == pytest.approx(30.7, abs=0.1)
    assert len(answer.windows) == 5


@pytest.mark.parametrize("queries", [[], [""], ["a cat", "   "]])
def test_empty_queries_are_refused(grounder, film, queries):
    with pytest.raises(InputError, match=r"empty|no query"):
        grounder.ground(film, queries)


def test_a_top_below_one_is_refused(grounder, film):
    with pytest.raises(InputError, match="top is 0"):
        grounder.ground(film, QUERIES, top=0)


def test_a_backbone_of_other_widths_is_refused(tmp_path, cache):
    config = small_config()
    other = replace(config, model=replace(config.model, video_width=128))
    with pytest.raises(InputError, match="video_width 96, but the checkpoint was trained on 128"):
        Grounder(write_checkpoint(tmp_path / "run", other))


def test_a_backbone_of_other_weights_is_refused(tmp_path, cache):
    checkpoint = write_checkpoint(tmp_path / "run", small_config(), fingerprint="f00")
    with pytest.raises(InputError, match=r"not those the checkpoint was trained with .* f00\)"):
        Grounder(checkpoint)


@pytest.mark.parametrize(
    ("features", "backbone", "reason"),
    [
        ("univtg", None, r"trained on feature files of others \(univtg\)"),
        ("sdst", None, "name the weights that made them, --backbone internvideo2:PATH"),
        ("sdst", "demo", "expected internvideo2:PATH"),
        ("encode", "demo", "takes no other; leave the option out"),
    ],
)
def test_a_checkpoint_says_why_it_cannot_ground(tmp_path, cache, features, backbone, reason):
    config = small_config()
    files = replace(config.data, features=features, video_features=["video"], text_features="text")
    checkpoint = write_checkpoint(tmp_path / "run", replace(config, data=files))
    with pytest.raises(InputError, match=reason):
        Grounder(checkpoint, backbone=backbone)


def test_many_queries_on_one_video_are_answered_in_batches(grounder, film, monkeypatch):
    queries = [f"{QUERIES[i % 2]}{' quickly' * (i % 3)}" for i in range(7)]
    together = grounder.ground(film, queries)
    monkeypatch.setattr("sdst.grounder.CLIPS_AT_ONCE", 1)
    for one, other in zip(grounder.ground(film, queries), together, strict=True):
        np.testing.assert_allclose(one.windows, other.windows, atol=1e-4)
        np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-4)


def test_a_long_video_is_grounded_in_stretches(checkpoint, cache, film, tmp_path):
    config = small_config()
    short = replace(config, predict=replace(config.predict, stretch=8, overlap=4))
    [answer] = Grounder(write_checkpoint(tmp_path / "run", short)).ground(film, QUERIES[:1], 99)
    assert len(answer.saliency) == round(answer.duration / answer.clip_length)
    assert len(answer.windows) > config.model.queries


def test_a_damaged_video_is_answered_and_told(grounder, film, tmp_path, caplog):
    path = tmp_path / "cut.mp4"
    cut_in_pictures(film, path)
    [answer] = grounder.ground(path, QUERIES[:1])
    [whole] = grounder.ground(film, QUERIES[:1])
    assert 0 < len(answer.saliency) < len(whole.saliency)
    assert "cut.mp4: truncated" in caplog.text


@pytest.fixture
def films(film: Path, tmp_path: Path) -> dict[str, Path]:
    """Three videos and one that cannot be read."""
    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(3):
        write_video(plan_scene("val", i, 0), folder / f"film{i}.mp4")
    (folder / "noise.mp4").write_bytes(os.urandom(2000))
    return {path.stem: path for path in sorted(folder.iterdir())}


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
        expected |= {(vid, w[0], w[1]): (w[2], evidence) for w in answer.windows}
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
    monkeypatch.setattr(answering, "CLIPS_AT_ONCE", 1)
    alone = grounder.search(readable, QUERIES)
    assert passes == [3, 1, 1, 1]
    for found, expected in zip(together, alone, strict=True):
        assert [m.vid for m in found] == [m.vid for m in expected]
        numbers = [[(m.start, m.end, m.score) for m in moments] for moments in (found, expected)]
        np.testing.assert_allclose(*numbers, rtol=1e-3, atol=1e-4)


def test_a_long_video_is_answered_by_itself(grounder):
    def video(clips: int) -> VideoFeatures:
        return VideoFeatures(np.zeros((2, clips, 1, 4), np.float16), None, 1.0)

    stretch = grounder.config.predict.stretch
    lengths = [5, 5, stretch + 1, 5, 7]
    found = groups(((str(i), video(n)) for i, n in enumerate(lengths)), 1, 4800, stretch)
    assert [[vid for vid, _ in group] for group in found] == [["0", "1"], ["2"], ["3", "4"]]


def extract_films(grounder, films, out: Path, clip_length: float) -> FeatureStore:
    readable = {vid: path for vid, path in films.items() if vid != "noise"}
    return extract_features(readable, {}, grounder.backbone, out, clip_length, progress=False)


def test_a_store_is_searched_as_its_videos_are(grounder, films, tmp_path):
    store = extract_films(grounder, films, tmp_path / "store", grounder.encoder.clip_length)
    assert grounder.search(store, QUERIES) == grounder.search(films, QUERIES, skipped=[])


def test_a_store_of_other_features_is_refused(grounder, films, tmp_path):
    store = extract_films(grounder, films, tmp_path / "store", 2 * grounder.encoder.clip_length)
    with pytest.raises(InputError, match=r"clip_length .* that of the training"):
        grounder.search(store, QUERIES)


def test_a_video_is_projected_once_for_all_calls(cache, film, tmp_path):
    config = small_config()
    config = replace(config, model=replace(config.model, context="none"))  # asks for no sentence
    grounder = Grounder(write_checkpoint(tmp_path / "run", config))
    calls = []
    grounder.model.visual_projection.register_forward_hook(lambda *_: calls.append(1))
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


def test_a_video_that_cannot_be_searched_is_an_error_unless_told(grounder, films):
    with pytest.raises(InputError, match=r"noise\.mp4"):
        grounder.search(films, QUERIES)


def test_the_command_searches_a_folder(checkpoint, cache, films, tmp_path, capsys):
    folder = next(iter(films.values())).parent
    arguments = ["--checkpoint", str(checkpoint), "--videos", str(folder), "--query", QUERIES[0]]
    out = tmp_path / "found.json"
    assert main([*arguments, "--top", "4", "--json", str(out)]) == 1  # one was left out
    told = capsys.readouterr()
    assert "best of 3 videos" in told.out
    assert "left out" in told.err and "noise.mp4" in told.err
    [record] = json.loads(out.read_text())
    assert len(record["moments"]) == 4


def test_any_video_is_grounded_without_training(cache, film):
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


def test_the_command_grounds_without_training(cache, film, tmp_path, capsys):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(QUERIES) + "\n\n")
    arguments = ["--zero-shot", "--clip-length", "1", "--video", str(film)]
    assert main([*arguments, "--queries", str(queries), "--plot", str(tmp_path / "a.png")]) == 0
    told = capsys.readouterr().out
    assert all(query in told for query in QUERIES)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (83.26, "1:23.3"), (59.96, "1:00.0"), (3599.99, "60:00.0")],
)
def test_times_are_shown_in_minutes(seconds, text):
    assert format_time(seconds) == text


def test_the_table_is_ranked():
    answer = Grounding("a cat", [[1.0, 2.5, 0.9], [70.0, 80.0, 0.25]], np.zeros(40), 2.0, 80.0)
    assert format_table(answer).splitlines() == [
        "a cat",
        "  rank     start       end   score",
        "     1    0:01.0    0:02.5   0.900",
        "     2    1:10.0    1:20.0   0.250",
    ]


def test_the_command_prints_and_writes_everything(checkpoint, cache, film, tmp_path, capsys):
    queries = [part for query in QUERIES for part in ("--query", query)]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    arguments = ["--checkpoint", str(checkpoint), "--video", str(film), "--top", "2"]
    assert main([*arguments, *queries, *outputs]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert all(query in printed for query in QUERIES)
    assert [len(answer["pred_relevant_windows"]) for answer in written["answers"]] == [2, 2]
    assert (tmp_path / "out.png").stat().st_size > 0


FAULTS = {
    "empty query": ({"--query": " "}, "query 1 is empty"),
    "queries": ({"--queries": "nowhere.txt"}, "--queries nowhere.txt: cannot be read"),
    "both": ({"--videos": "."}, "give one of --video FILE, --videos PATH"),
    "clip length": ({"--clip-length": "2"}, "--clip-length goes with --zero-shot"),
    "top": ({"--top": "0"}, "--top 0: expected at least 1"),
    "video": ({"--video": "nowhere.mp4"}, "nowhere.mp4: no such video file"),
    "checkpoint": ({"--checkpoint": "nowhere"}, "checkpoint nowhere: config.yaml not found"),
    "json folder": ({"--json": "nowhere/out.json"}, "no such folder nowhere"),
    "plot folder": ({"--plot": "nowhere/out.png"}, "no such folder nowhere"),
    "plot format": ({"--plot": "out.xyz"}, "no picture format"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_option_ends_with_one_line_and_code_2(checkpoint, cache, film, case, capsys):
    changed, reason = FAULTS[case]
    options = {"--checkpoint": str(checkpoint), "--video": str(film), "--query": "a cat"} | changed
    with pytest.raises(SystemExit) as caught:
        run(lambda: main([part for pair in options.items() for part in pair]))
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert reason in message
    assert message.startswith("error: ") and message.count("\n") == 1


def test_a_broken_video_ends_with_one_line_and_leaves_no_cache(checkpoint, cache, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(os.urandom(2000))
    with pytest.raises(InputError, match="not a readable video"):
        main(["--checkpoint", str(checkpoint), "--video", str(path), "--query", "a cat"])
    assert not cache.exists() or not list(cache.iterdir())
