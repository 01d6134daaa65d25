"""Extraction: every video and query in the store, overlapped, atomic, and the command around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.data.store.reader import FeatureStore
from sdst.data.video_files import find_videos
from sdst.errors import InputError
from sdst.extract import main
from sdst.extraction.pipeline import Report
from tests.extraction.grey import QUERIES, WIDTH, GreyBackbone, K, P, extract, write_video
from tests.videos import cut_in_pictures

VIDEOS = ("--backbone", "demo", "--videos")


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    return {
        name: write_video(folder / f"{name}.mp4", levels)
        for name, levels in {
            "rising": [40, 60, 80, 100, 120, 140, 160, 180],
            "dark": [30] * 6,
            "bright": [200] * 10,
        }.items()
    }


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list:
    """Everything encoded from here on: numbers of frames, and sentences."""
    seen: list[int | str] = []
    frames_of, text_of = GreyBackbone.encode_frames, GreyBackbone.encode_text

    def watch_frames(self, frames: np.ndarray) -> FrameFeatures:
        seen.append(len(frames))
        return frames_of(self, frames)

    def watch_text(self, texts: list[str]) -> list[TextFeatures]:
        seen.extend(texts)
        return text_of(self, texts)

    monkeypatch.setattr(GreyBackbone, "encode_frames", watch_frames)
    monkeypatch.setattr(GreyBackbone, "encode_text", watch_text)
    return seen


def assert_same_answers(store: FeatureStore, other: FeatureStore) -> None:
    assert set(store.video_ids) == set(other.video_ids)
    assert set(store.query_ids) == set(other.query_ids)
    for vid in store:
        np.testing.assert_array_equal(store.video(vid).tokens, other.video(vid).tokens)
        np.testing.assert_array_equal(store.video(vid).embedding, other.video(vid).embedding)
        assert store.video(vid).duration == other.video(vid).duration
    for qid in store.query_ids:
        np.testing.assert_array_equal(store.query(qid).tokens, other.query(qid).tokens)
    store.verify(progress=False)


def test_every_video_is_stored_with_its_clips_and_duration(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    shapes = {vid: store.video(vid).tokens.shape for vid in store.video_ids}
    assert shapes == {
        "rising": (K, 4, P, WIDTH),
        "dark": (K, 3, P, WIDTH),
        "bright": (K, 5, P, WIDTH),
    }
    assert store.video("rising").duration == 4.0


def test_every_query_is_stored_under_its_id(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    assert store.query(1).tokens.shape == (K, 3, WIDTH)
    assert store.query("two").tokens.shape == (K, 5, WIDTH)


def test_meta_says_what_made_the_store(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=2)
    assert store.meta == {
        "backbone": "grey",
        "fingerprint": "grey-1",
        "clip_length": 2.0,
        "frames_per_clip": 2,
    }


def test_a_clip_is_the_mean_of_its_frames(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=4)
    grey = 255 * store.video("rising").tokens[0, :, 0, 0].astype(float)
    np.testing.assert_allclose(grey, [70, 150], atol=3)


def test_embeddings_are_unit_vectors(videos, tmp_path):
    store = extract(videos, tmp_path / "store", clip_length=2.0, frames_per_clip=2)
    norms = np.linalg.norm(store.video("dark").embedding.astype(float), axis=-1)
    np.testing.assert_allclose(norms, 1, atol=1e-3)


def test_a_video_of_many_batches_stays_in_order(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("sdst.data.video.reader.BATCH_FRAMES", 1)
    store = extract(videos, tmp_path / "store", clip_length=1.0)
    grey = 255 * store.video("rising").tokens[0, :, 0, 0].astype(float)
    assert (np.diff(grey) > 20).all()


def test_the_number_of_threads_is_restored(videos, tmp_path):
    before = torch.get_num_threads()
    extract(videos, tmp_path / "store", clip_length=1.0)
    assert torch.get_num_threads() == before


def test_a_broken_video_leaves_no_store_and_is_named(videos, tmp_path):
    broken = tmp_path / "videos" / "broken.mp4"
    broken.write_bytes(videos["dark"].read_bytes()[:300])
    with pytest.raises(InputError, match=r"broken\.mp4"):
        extract({**videos, "broken": broken}, tmp_path / "store", clip_length=1.0)
    assert [path.name for path in tmp_path.iterdir()] == ["videos"]


def test_a_broken_video_is_left_out_and_a_cut_one_used_where_that_is_reported(videos, tmp_path):
    content = videos["bright"].read_bytes()
    broken, cut = (tmp_path / "videos" / f"{name}.mp4" for name in ("broken", "cut"))
    broken.write_bytes(content[:300])
    long = write_video(tmp_path / "videos" / "long.mp4", list(range(0, 240, 4)))
    cut_in_pictures(long, cut)
    report = Report()
    everything = {"broken": broken, "cut": cut, **videos}
    store = extract(everything, tmp_path / "store", clip_length=1.0, report=report)
    assert store.video_ids == ["cut", *videos]
    clips = store.video("cut").tokens.shape[1]
    assert 0 < clips < 30 and store.video("cut").duration == clips
    grey = 255 * store.video("cut").tokens[1, :, 2, 0].astype(float)
    np.testing.assert_allclose(grey[:-1], 4 + 8 * np.arange(clips - 1), atol=4)
    [skipped] = report.skipped
    assert "broken.mp4" in skipped
    assert "cut.mp4: truncated" in report.faults[-1]
    store.verify(progress=False)


def test_not_one_readable_video_is_an_error(tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"none of 1 videos can be read: .*broken\.mp4"):
        extract({"broken": broken}, tmp_path / "store", clip_length=1.0, report=Report())


KILLED = """
import os, sys
from pathlib import Path
from tests.extraction.grey import extract
from sdst.data.store import writer
from sdst.data.store.writer import FeatureWriter

folder, out, when = sys.argv[1:]
def die(name):
    if name == when:
        os.kill(os.getpid(), 9)

finish, replace_text = FeatureWriter._finish_video, writer.replace_text
def die_with_some_videos(self, *video):
    die(f"{len(self.video_ids)} videos")
    finish(self, *video)
def die_around_the_index(*arguments):
    die("before the index")
    replace_text(*arguments)
    die("behind the index")
FeatureWriter._finish_video = die_with_some_videos
writer.replace_text = die_around_the_index
videos = {path.stem: path for path in sorted(Path(folder).iterdir())}
extract(videos, Path(out), clip_length=1.0, resume=True)
"""


def kill(folder: Path, out: Path, when: str) -> None:
    """Extract all videos of `folder`, and be killed."""
    run = subprocess.run([sys.executable, "-c", KILLED, str(folder), str(out), when], check=False)
    assert run.returncode == -9


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(videos, tmp_path, request):
    long = write_video(tmp_path / "long.mp4", list(range(0, 240, 4)))
    cut_in_pictures(long, tmp_path / "videos" / "a_cut.mp4")
    videos = dict(sorted({**videos, "a_cut": tmp_path / "videos" / "a_cut.mp4"}.items()))
    first, again = Report(), Report()
    whole = extract(videos, tmp_path / "whole", clip_length=1.0, report=first)
    out = tmp_path / "store"
    kill(tmp_path / "videos", out, "1 videos")
    seen = request.getfixturevalue("encoded")
    extract(videos, out, clip_length=1.0, resume=True, report=again)
    assert again.faults == first.faults and len(first.faults) >= 1
    assert sum(seen) == sum(whole.video(vid).tokens.shape[1] for vid in list(videos)[1:])
    for file in whole.path.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert not list(tmp_path.glob(".*.partial"))


def test_a_finished_store_encodes_only_what_is_new(videos, tmp_path, encoded):
    fewer = {vid: videos[vid] for vid in ("dark", "bright")}
    extract(fewer, tmp_path / "store", {1: QUERIES[1]}, clip_length=1.0)
    encoded.clear()
    store = extract(videos, tmp_path / "store", clip_length=1.0, resume=True)
    assert encoded == [QUERIES["two"], 4]
    whole = extract(videos, tmp_path / "whole", clip_length=1.0)
    assert_same_answers(store, whole)
    assert store.video_ids == ["dark", "bright", "rising"]
    encoded.clear()
    extract(videos, tmp_path / "store", clip_length=1.0, resume=True)
    assert encoded == []


@pytest.mark.parametrize(
    ("when", "done"),
    [("2 videos", 0), ("3 videos", 1), ("before the index", 2), ("behind the index", 2)],
)
def test_a_growth_that_was_killed_resumes(videos, tmp_path, when, done, encoded):
    write_video(tmp_path / "videos" / "more.mp4", [90] * 12)
    videos = {path.stem: path for path in sorted((tmp_path / "videos").iterdir())}
    old = extract(
        {vid: videos[vid] for vid in ("bright", "dark")}, tmp_path / "store", clip_length=1.0
    )
    bytes_before = {vid: old.video(vid).tokens.copy() for vid in old}
    kill(tmp_path / "videos", tmp_path / "store", when)
    between = FeatureStore(tmp_path / "store")
    assert between.video_ids == [*old, *(("more", "rising") if when == "behind the index" else ())]
    between.verify(progress=False)
    encoded.clear()
    store = extract(videos, tmp_path / "store", clip_length=1.0, resume=True)
    assert encoded == [6, 4][done:]
    assert_same_answers(store, extract(videos, tmp_path / "whole", clip_length=1.0))
    for vid, tokens in bytes_before.items():
        np.testing.assert_array_equal(old.video(vid).tokens, tokens)


def test_other_settings_do_not_go_into_a_finished_store(videos, tmp_path):
    extract(videos, tmp_path / "store", clip_length=1.0)
    for wrong, message in (
        (
            {"clip_length": 2.0},
            r"store: was made with clip_length 1\.0, expected 2\.0; continue with",
        ),
        ({"clip_length": 1.0, "frames_per_clip": 2}, "frames_per_clip 1, expected 2"),
        ({"clip_length": 1.0, "store_dtype": "int8"}, "dtype 'float16', expected 'int8'"),
    ):
        with pytest.raises(InputError, match=message):
            extract(videos, tmp_path / "store", resume=True, **wrong)


def test_a_changed_query_is_encoded_anew(videos, tmp_path, encoded):
    extract(videos, tmp_path / "store", clip_length=1.0)
    encoded.clear()
    changed = {**QUERIES, 1: "a ball that was red"}
    store = extract(videos, tmp_path / "store", changed, clip_length=1.0, resume=True)
    assert encoded == [changed[1]]
    assert_same_answers(store, extract(videos, tmp_path / "whole", changed, clip_length=1.0))


def test_a_query_that_changed_after_a_kill_is_encoded_anew(videos, tmp_path):
    kill(tmp_path / "videos", tmp_path / "store", "1 videos")
    changed = {**QUERIES, "two": "a cat"}
    store = extract(videos, tmp_path / "store", changed, clip_length=1.0, resume=True)
    assert_same_answers(store, extract(videos, tmp_path / "whole", changed, clip_length=1.0))


@pytest.mark.parametrize("same_size", [False, True])
def test_a_changed_video_is_encoded_anew_and_a_copy_is_not(videos, tmp_path, encoded, same_size):
    def write(shade: int) -> None:
        content = write_video(videos["dark"], [shade] * 8).read_bytes()
        if same_size:
            room = 2**18 - len(content)  # in a box that players skip
            content += room.to_bytes(4, "big") + b"free" + bytes(room - 8)
        videos["dark"].write_bytes(content)

    write(30)
    extract(videos, tmp_path / "store", clip_length=1.0)
    write(220)
    videos["bright"].touch()
    encoded.clear()
    store = extract(videos, tmp_path / "store", clip_length=1.0, resume=True)
    assert encoded == [4]
    assert_same_answers(store, extract(videos, tmp_path / "whole", clip_length=1.0))


def test_what_is_gone_from_the_folder_stays_in_the_store(videos, tmp_path, encoded):
    extract(videos, tmp_path / "store", clip_length=1.0)
    encoded.clear()
    fewer = {"dark": videos["dark"]}
    assert len(extract(fewer, tmp_path / "store", {}, clip_length=1.0, resume=True)) == 3
    videos["dark"].unlink()
    assert len(extract(fewer, tmp_path / "store", {}, clip_length=1.0, resume=True)) == 3
    assert encoded == []


def test_a_file_that_was_half_copied_is_whole_the_next_time(videos, tmp_path):
    long = write_video(tmp_path / "long.mp4", list(range(0, 240, 4)))
    copy = tmp_path / "videos" / "long.mp4"
    cut_in_pictures(long, copy)
    everything, first, again = {**videos, "long": copy}, Report(), Report()
    extract(everything, tmp_path / "store", clip_length=1.0, report=first)
    extract(everything, tmp_path / "store", clip_length=1.0, report=again, resume=True)
    assert again == first and "long.mp4: truncated" in first.faults[-1]
    copy.write_bytes(long.read_bytes())
    whole = Report()
    store = extract(everything, tmp_path / "store", clip_length=1.0, report=whole, resume=True)
    assert store.video("long").duration == 30.0
    assert whole == Report()


def test_videos_of_a_list_are_found(videos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(map(str, videos.values())) + "\n\n")
    assert find_videos([listed]) == videos


def test_a_list_names_what_is_not_there(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("nowhere.mp4\n")
    report = Report()
    with pytest.raises(InputError, match=r"nowhere\.mp4: no such video file"):
        extract(find_videos([listed]), tmp_path / "store", clip_length=1.0, report=report)


def test_videos_of_a_folder_are_found_by_their_names(videos, tmp_path):
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    assert find_videos([tmp_path / "videos"]) == dict(sorted(videos.items()))


def test_folders_in_a_folder_are_searched(videos, tmp_path):
    inner = tmp_path / "videos" / "more" / "of them"
    inner.mkdir(parents=True)
    deep = write_video(inner / "deep.MP4", [10])
    assert find_videos([tmp_path / "videos"]) == dict(sorted({**videos, "deep": deep}.items()))


def test_the_bar_shows_parts_of_a_video(tmp_path, capsys):
    films = {"long": write_video(tmp_path / "long.mp4", list(range(20, 220, 4)))}
    extract(films, tmp_path / "store", {}, progress=True, clip_length=1.0)
    assert "1.0/1 videos" in capsys.readouterr().err


def test_two_files_of_one_name_are_refused(videos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    twin = write_video(other / "dark.mp4", [10])
    with pytest.raises(InputError, match="the same id dark"):
        find_videos([tmp_path / "videos", twin])


def test_a_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        find_videos([tmp_path / "nowhere"])


def test_a_folder_without_videos_is_refused(tmp_path):
    with pytest.raises(InputError, match="no video files in this folder"):
        find_videos([tmp_path])


def test_the_command_writes_a_store(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sdst.backbones.load_backbone", lambda name, layers, device: GreyBackbone())
    annotations = tmp_path / "queries.jsonl"
    annotations.write_text(
        '{"qid": 5, "query": "a grey room", "vid": "dark", "duration": 3.0, '
        '"relevant_windows": [[0, 2]]}\n'
    )
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--annotations", str(annotations)]
    assert main([*arguments, "--clip-length", "1", "--output", str(tmp_path / "store")]) == 0
    assert "3 videos, 1 queries" in capsys.readouterr().out
    assert main([*arguments, "--store-dtype", "int8", "--output", str(tmp_path / "small")]) == 0
    assert FeatureStore(tmp_path / "small").dtype == "int8"


def test_the_command_reports_what_it_left_out(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sdst.backbones.load_backbone", lambda name, layers, device: GreyBackbone())
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--output", str(tmp_path / "store")]
    with pytest.raises(InputError, match=r"broken\.mp4"):
        main([*arguments, "--strict"])
    assert main(arguments) == 1
    shown = capsys.readouterr()
    assert "3 videos, 0 queries" in shown.out
    assert shown.err.splitlines()[-1].startswith("left out: ")
    assert "broken.mp4" in shown.err


def test_the_command_refuses_another_folder_before_it_works(videos, tmp_path):
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--output", str(tmp_path)]
    with pytest.raises(InputError, match="exists and is no feature store"):
        main(arguments)


def test_the_same_command_again_adds_what_is_new(videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sdst.backbones.load_backbone", lambda name, layers, device: GreyBackbone())
    broken = tmp_path / "videos" / "broken.mp4"
    broken.write_bytes(b"no video")
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--output", str(tmp_path / "store")]
    assert main(arguments) == 1
    assert main(arguments) == 1, "what cannot be read is reported every time"
    broken.write_bytes(videos["dark"].read_bytes())
    assert main(arguments) == 0
    shown = capsys.readouterr().out.splitlines()
    assert ["3 videos" in shown[0], "3 videos" in shown[1], "4 videos" in shown[2]] == [True] * 3
    with pytest.raises(InputError, match=r"clip_length 2\.0, expected 1\.0"):
        main([*arguments, "--clip-length", "1"])


def test_two_files_of_queries_do_not_share_ids(videos, tmp_path):
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for file, query in zip(files, ("a cat", "a dog"), strict=True):
        record = {"qid": 1, "query": query, "vid": "dark", "duration": 4}
        file.write_text(json.dumps(record) + "\n")
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--output", str(tmp_path / "store")]
    with pytest.raises(InputError, match=r"b\.jsonl: qid 1 stands for another query"):
        main([*arguments, "--annotations", *map(str, files)])


def test_a_budget_of_nothing_is_refused(videos, tmp_path):
    arguments = [*VIDEOS, str(tmp_path / "videos"), "--output", str(tmp_path / "store")]
    with pytest.raises(InputError, match="budget"):
        main([*arguments, "--memory-budget", "0"])
