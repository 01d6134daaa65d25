"""Extraction shared out over processes gives the store of one process, byte for byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdst.data.store.reader import FeatureStore
from sdst.errors import InputError
from sdst.extraction import shards
from sdst.extraction.pipeline import Report
from sdst.extraction.shards import Share
from tests.extraction.grey import QUERIES, GreyBackbone, extract, run_share, write_video
from tests.videos import cut_in_pictures


@pytest.fixture
def videos(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abcde":
        write_video(folder / f"{name}.mp4", generator.integers(16, 235, 40).tolist())
    (folder / "broken.mp4").write_bytes(b"no video")
    return {path.stem: path for path in sorted(folder.iterdir())}


def run_alone(videos: dict[str, Path], out: Path, **options):
    report = Report()
    return extract(videos, out, report=report, **{"clip_length": 1.0, **options}), report


def assert_same_bytes(store: Path, other: Path) -> None:
    assert {file.name for file in store.iterdir()} == {file.name for file in other.iterdir()}
    for file in store.iterdir():
        assert (other / file.name).read_bytes() == file.read_bytes(), file.name


JOIN_KILLED = """
import os, sys
from pathlib import Path
from tests.extraction.grey import run_share
from sdst.extraction import shards
from sdst.data.store.writer import FeatureWriter

wait = shards._wait_for_all
def wait_and_die_before_the_join_is_published(*arguments):
    wait(*arguments)
    FeatureWriter._publish = lambda self: os.kill(os.getpid(), 9)
shards._wait_for_all = wait_and_die_before_the_join_is_published
videos = {path.stem: path for path in sorted(Path(sys.argv[1]).iterdir())}
run_share(0, videos, Path(sys.argv[2]))
"""


def kill_while_joining(videos: dict[str, Path], out: Path) -> None:
    run_share(1, videos, out)
    arguments = [sys.executable, "-c", JOIN_KILLED, str(videos["a"].parent), str(out)]
    assert subprocess.run(arguments, check=False).returncode == -9


@pytest.mark.parametrize(("world", "dtype"), [(2, "float16"), (3, "int8"), (9, "float16")])
def test_the_shares_join_to_the_store_of_one_process(
    videos, tmp_path, world: int, dtype: str
) -> None:
    alone, expected = run_alone(videos, tmp_path / "alone", store_dtype=dtype)
    for rank in range(1, world):
        assert run_share(rank, videos, tmp_path / "shared", world, store_dtype=dtype)[0] is None
    store, report = run_share(0, videos, tmp_path / "shared", world, store_dtype=dtype)
    assert_same_bytes(alone.path, store.path)
    assert report == expected and len(report.skipped) == 1
    assert not list(tmp_path.glob(".*")), "shards are left"


def test_every_process_has_its_part(videos) -> None:
    parts = shards._parts(videos, 3)
    assert sorted(vid for part in parts for vid in part) == sorted(videos)
    assert all(parts)


KILLED = """
import os, sys
from pathlib import Path
from tests.extraction.grey import run_share
from sdst.data.store.writer import FeatureWriter

finish = FeatureWriter._finish_video
def die_after_the_first(self, *video):
    if self.video_ids:
        os.kill(os.getpid(), 9)
    finish(self, *video)
FeatureWriter._finish_video = die_after_the_first
videos = {path.stem: path for path in sorted(Path(sys.argv[1]).iterdir())}
run_share(1, videos, Path(sys.argv[2]))
"""


def test_a_killed_process_resumes_in_its_share(videos, tmp_path, monkeypatch) -> None:
    alone, _ = run_alone(videos, tmp_path / "alone")
    out = tmp_path / "shared"
    arguments = [sys.executable, "-c", KILLED, str(tmp_path / "videos"), str(out)]
    assert subprocess.run(arguments, check=False).returncode == -9
    seen = []
    encode = GreyBackbone.encode_frames
    monkeypatch.setattr(
        GreyBackbone,
        "encode_frames",
        lambda self, frames: (seen.append(len(frames)), encode(self, frames))[1],
    )
    run_share(1, videos, out)
    theirs = [vid for vid in shards._parts(videos, 2)[1] if vid in alone]
    assert sum(seen) == 20 * (len(theirs) - 1), "a finished video was encoded again"
    run_share(1, videos, out)  # its share is done
    assert sum(seen) == 20 * (len(theirs) - 1)
    assert_same_bytes(alone.path, run_share(0, videos, out)[0].path)


def test_videos_that_came_later_are_not_forgotten(videos, tmp_path) -> None:
    fewer = {vid: path for vid, path in videos.items() if vid not in "bd"}
    run_share(1, fewer, tmp_path / "shared")  # done, and killed before all were joined
    alone, _ = run_alone(videos, tmp_path / "alone")
    run_share(1, videos, tmp_path / "shared")
    store, _ = run_share(0, videos, tmp_path / "shared")
    assert_same_bytes(alone.path, store.path)


def test_queries_that_came_later_are_not_forgotten(videos, tmp_path, monkeypatch) -> None:
    out = tmp_path / "shared"
    kill_while_joining(videos, out)
    monkeypatch.setitem(QUERIES, "later", "another sentence")
    alone, _ = run_alone(videos, tmp_path / "alone")
    assert_same_bytes(alone.path, run_share(0, videos, out)[0].path)


def test_other_settings_do_not_go_into_old_shards(videos, tmp_path) -> None:
    run_share(1, videos, tmp_path / "shared")
    with pytest.raises(InputError, match=r"1: was made with clip_length 1\.0, expected 2\.0"):
        run_share(1, videos, tmp_path / "shared", clip_length=2.0)


def test_nothing_is_left_of_a_join_that_was_killed(videos, tmp_path) -> None:
    alone, _ = run_alone(videos, tmp_path / "alone")
    out = tmp_path / "shared"
    kill_while_joining(videos, out)
    assert not out.exists()
    assert_same_bytes(alone.path, run_share(0, videos, out)[0].path)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture
def grown(videos, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A store that one process grew, and the same one before, for several."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    fewer = {vid: path for vid, path in videos.items() if vid not in "bde"}
    for out in (alone, shared):
        run_alone(fewer, out)
    monkeypatch.setitem(QUERIES, 1, "a ball that was red")
    monkeypatch.setitem(QUERIES, "later", "another sentence")
    run_alone(videos, alone, resume=True)
    return alone, shared


@pytest.mark.parametrize("world", [2, 5])
def test_several_processes_grow_a_store_as_one_does(videos, grown, world) -> None:
    alone, shared = grown
    before = (shared / "video_tokens.bin").stat()
    for rank in range(1, world):
        run_share(rank, videos, shared, world)
    store, report = run_share(0, videos, shared, world)
    assert_same_bytes(alone, shared)
    store.verify(progress=False)
    assert (shared / "video_tokens.bin").stat().st_ino == before.st_ino, "a copy was made"
    assert len(report.skipped) == 1 and not list(shared.parent.glob(".*"))


def test_a_growth_that_was_killed_while_joining_resumes(videos, grown) -> None:
    alone, shared = grown
    old = FeatureStore(shared)
    kill_while_joining(videos, shared)
    between = FeatureStore(shared)
    assert between.video_ids == old.video_ids
    between.verify(progress=False)
    run_share(0, videos, shared)
    assert_same_bytes(alone, shared)
    assert not list(shared.parent.glob(".*"))


def test_processes_that_find_nothing_new_leave_the_store(videos, tmp_path) -> None:
    readable = {vid: path for vid, path in videos.items() if vid != "broken"}
    alone, _ = run_alone(readable, tmp_path / "alone")
    changed = (alone.path / "index.json").stat().st_mtime_ns
    assert run_share(1, readable, alone.path)[0] is None
    assert len(run_share(0, readable, alone.path)[0]) == len(readable)
    assert (alone.path / "index.json").stat().st_mtime_ns == changed
    assert not list(tmp_path.glob(".*"))


def test_processes_with_other_settings_do_not_begin(videos, tmp_path) -> None:
    alone, _ = run_alone(videos, tmp_path / "alone")
    with pytest.raises(InputError, match=r"clip_length 1\.0, expected 2\.0"):
        run_share(1, videos, alone.path, clip_length=2.0)
    assert not list(tmp_path.glob(".*"))


def test_faults_are_reported_by_who_joins_and_every_time(videos, tmp_path) -> None:
    long = write_video(tmp_path / "long.mp4", list(range(0, 240, 4)))
    cut_in_pictures(long, tmp_path / "videos" / "cut.mp4")
    videos = {**videos, "cut": tmp_path / "videos" / "cut.mp4"}
    _, expected = run_alone(videos, tmp_path / "alone")
    assert len(expected.faults) >= 1
    for _ in range(2):
        run_share(1, videos, tmp_path / "shared")
        assert run_share(0, videos, tmp_path / "shared")[1] == expected


def test_another_number_of_processes_is_refused(videos, tmp_path) -> None:
    run_share(1, videos, tmp_path / "shared", world=2)
    with pytest.raises(InputError, match="continue with 2"):
        run_share(1, videos, tmp_path / "shared", world=3)


@pytest.mark.parametrize("report", ["{", "[1]", '{"task": 1}'])
def test_a_damaged_report_of_a_process_is_one_line(videos, tmp_path, report: str) -> None:
    shard = tmp_path / ".store.shards-of-2"
    shard.mkdir()
    (shard / "0.json").write_text(report)
    with pytest.raises(InputError, match=r"0\.json"):
        run_share(0, videos, tmp_path / "store")


def test_shares_of_different_backbones_are_refused(videos, tmp_path, monkeypatch) -> None:
    run_share(1, videos, tmp_path / "shared")
    monkeypatch.setattr(GreyBackbone, "fingerprint", "grey-2")
    with pytest.raises(InputError, match="not those of process 0"):
        run_share(0, videos, tmp_path / "shared")


def test_not_one_readable_video_is_an_error(tmp_path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    run_share(1, {"broken": broken}, tmp_path / "shared")
    with pytest.raises(InputError, match=r"none of 1 videos can be read: .*broken\.mp4"):
        run_share(0, {"broken": broken}, tmp_path / "shared")


def test_the_one_who_waits_names_who_is_silent(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(shards, "SILENCE_SECONDS", 0)
    (tmp_path / "0.json").write_text('{"task": {"videos": ["a"]}, "skipped": []}')
    (tmp_path / "1.json").write_text('{"task": {"videos": ["of a run before"]}, "skipped": []}')

    def appear(seconds: float) -> None:
        (tmp_path / "1.json").write_text('{"task": {"videos": ["b"]}, "skipped": []}')

    monkeypatch.setattr(shards.time, "sleep", appear)
    shards._wait_for_all(tmp_path, [{"videos": ["a"]}, {"videos": ["b"]}])
    assert "processes 1 have written nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    "variables", [{"RANK": "two"}, {"RANK": "2", "WORLD_SIZE": "2"}, {"WORLD_SIZE": "0"}]
)
def test_an_environment_that_makes_no_sense_is_named(monkeypatch, variables: dict) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="RANK"):
        Share.of_environment()


@pytest.mark.slow
def test_torchrun_shares_out_the_command(videos, tmp_path) -> None:
    command = ["-m", "sdst.extract", "--backbone", "demo", "--videos", str(tmp_path / "videos")]
    command += ["--output"]
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run = [sys.executable, *command, str(alone)]
    assert subprocess.run(run, check=False).returncode == 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, *command, str(shared)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "5 videos" in done.stdout and "left out: " in done.stderr
    assert_same_bytes(alone, shared)
    assert json.loads((shared / "index.json").read_text())["meta"]["backbone"] == "demo"
