from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from sdst.errors import InputError
from sdst.serving.jobs import Encodings, Job
from sdst.serving.library import Video
from sdst.serving.refusals import Refused

Report = Callable[[float], None]


def video(vid: str) -> Video:
    return Video(vid, f"{vid}.mp4", Path(f"/library/{vid}/video.mp4"), 1, 1.0, 1.0, 1, 1, 0.0)


def settled(jobs: Encodings, vid: str) -> Job:
    until = time.monotonic() + 10
    while jobs.of(vid).state not in ("ready", "failed") and time.monotonic() < until:
        time.sleep(0.005)
    return jobs.of(vid)


def test_progress_is_reported_while_a_video_is_encoded() -> None:
    half, go_on = Event(), Event()

    def encode(_: Video, report: Report) -> None:
        report(0.5)
        half.set()
        go_on.wait(10)

    jobs = Encodings(encode, room=8)
    jobs.add(video("a"))
    half.wait(10)
    assert jobs.of("a") == Job("encoding", 0.5)
    go_on.set()
    assert settled(jobs, "a") == Job("ready", 1.0)
    jobs.stop()


def test_a_fault_is_one_line_under_the_users_name_and_the_next_video_is_encoded() -> None:
    def encode(video: Video, _: Report) -> None:
        if video.id == "bad":
            raise InputError(f"{video.path}: not a readable video")

    jobs = Encodings(encode, room=8)
    jobs.add(video("bad"))
    jobs.add(video("good"))
    assert settled(jobs, "bad").error == "bad.mp4: not a readable video"
    assert settled(jobs, "good").state == "ready"
    jobs.stop()


def test_a_bug_shows_no_inside_and_ends_no_thread() -> None:
    def encode(video: Video, _: Report) -> None:
        if video.id == "bad":
            raise ZeroDivisionError("secret")

    jobs = Encodings(encode, room=8)
    jobs.add(video("bad"))
    jobs.add(video("good"))
    assert settled(jobs, "bad").error == "cannot be encoded; the server's log has the reason"
    assert settled(jobs, "good").state == "ready"
    jobs.stop()


def test_a_removed_video_ends_at_its_next_frames() -> None:
    began, removed, ended = Event(), Event(), Event()

    def encode(_: Video, report: Report) -> None:
        began.set()
        removed.wait(10)
        try:
            report(0.5)
        finally:
            ended.set()

    jobs = Encodings(encode, room=8)
    jobs.add(video("a"))
    began.wait(10)
    jobs.cancel("a")
    removed.set()
    assert ended.wait(10)
    jobs.stop()
    assert jobs.of("a").error == "the video was removed"


def test_uploads_are_refused_where_too_many_wait() -> None:
    hold = Event()
    jobs = Encodings(lambda *_: hold.wait(10), room=2)
    for name in ("a", "b", "c"):
        jobs.add(video(name))
    until = time.monotonic() + 10
    while jobs.of("a").state == "waiting" and time.monotonic() < until:
        time.sleep(0.005)
    with pytest.raises(Refused, match="2 videos wait to be encoded already"):
        jobs.check_room(coming=0)
    hold.set()
    jobs.stop()
