"""Videos that are no files of PyAV's: folders of pictures, URLs, and files read by decord."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdst.data.store.origins import video_origins
from sdst.data.video import ClipReader, VideoInfo, measure, probe, thumbnails
from sdst.data.video.decord_frames import check_decord
from sdst.data.video.pictures import frame_rate
from sdst.data.video_files import dataset_videos, find_videos, is_url
from sdst.errors import InputError
from tests.videos import FPS, cut_in_pictures, draw_time, times_shown, write_video

SECONDS = 4
TIMES = np.arange(SECONDS * FPS) / FPS


def write_pictures(folder: Path, ending: str = ".png", rate: str | None = f"{FPS}\n") -> Path:
    """A picture for each of `TIMES`, which shows it."""
    folder.mkdir(parents=True)
    for number, time in enumerate(TIMES):
        Image.fromarray(draw_time(time, (64, 48))).save(folder / f"frame{number}{ending}")
    if rate is not None:
        (folder / "frame_rate.txt").write_text(rate)
    return folder


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_pictures_are_shown_in_natural_order_at_their_rate(ending: str, tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "park", ending)
    assert probe(folder) == VideoInfo(SECONDS, FPS, 64, 48, SECONDS * FPS)
    reader = ClipReader(folder, 1.0, 2)
    np.testing.assert_allclose(times_shown(reader), [x + y for x in range(4) for y in (0.2, 0.7)])
    assert (reader.clips, reader.duration, reader.faults) == (SECONDS, SECONDS, [])
    assert measure(folder).duration == SECONDS
    assert len(list(thumbnails(folder, 2.0, 24))) == 2


@pytest.mark.parametrize(
    ("text", "rate"),
    [("25", 25), ("29.97 fps\n", 29.97), ("30000/1001", 30000 / 1001), ("\ufeff0.5\r\n", 0.5)],
)
def test_a_frame_rate_is_read(text: str, rate: float, tmp_path: Path) -> None:
    (tmp_path / "frame_rate.txt").write_text(text)
    assert frame_rate(tmp_path) == pytest.approx(rate)


@pytest.mark.parametrize("text", ["", "0", "fast", "25\n30", "1/0", "-5", "1e9", "99999"])
def test_what_is_no_frame_rate_is_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frame_rate.txt: .*expected pictures per second"):
        probe(write_pictures(tmp_path / "park", rate=text))


def test_a_picture_that_cannot_be_read_is_stood_in_for(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "park")
    for number in (0, 15):
        (folder / f"frame{number}.png").write_bytes(b"no picture")
    reader = ClipReader(folder, 0.1)
    shown = times_shown(reader)
    assert shown[0] == pytest.approx(0.1)
    assert shown[14] == shown[15] == pytest.approx(1.4)
    assert reader.faults == [
        f"{folder}: 2 of 40 pictures cannot be decoded; the ones before stand in"
    ]


def test_folders_without_any_picture_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "frame_rate.txt").write_text("25")
    with pytest.raises(InputError, match=r"has frame_rate.txt, but no picture"):
        probe(tmp_path / "a")
    (tmp_path / "a" / "1.png").write_bytes(b"x")
    with pytest.raises(InputError, match="none of its 1 pictures can be read"):
        probe(tmp_path / "a")


def test_folders_of_pictures_are_found_among_videos(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "all" / "park.v2")
    file = write_video(tmp_path / "all" / "film.mp4", [0.0])
    assert find_videos([tmp_path / "all"]) == {"film": file, "park.v2": folder}
    assert find_videos([folder]) == {"park.v2": folder}
    assert dataset_videos(tmp_path / "all", ["park.v2"]) == {"park.v2": folder}
    without = write_pictures(tmp_path / "other", rate=None)
    with pytest.raises(InputError, match=r"no video files .* of its 40 pictures .*frame_rate.txt"):
        find_videos([without])


def test_a_folder_of_pictures_has_changed_when_one_of_them_has(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "park")
    [before] = video_origins({"park": folder}).values()
    reader = ClipReader(folder, 1.0)
    Image.new("RGB", (64, 48)).save(folder / "frame40.png")
    [after] = video_origins({"park": folder}).values()
    assert before != after
    with pytest.raises(InputError, match="changed while it was read"):
        next(reader)


def test_a_url_is_read_like_the_file(server: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", list(TIMES), movflags="faststart")
    address = f"{server}/film.mp4"
    assert probe(address) == probe(path)
    [web], [file] = ClipReader(address, 1.0), ClipReader(path, 1.0)
    np.testing.assert_array_equal(web, file)


def test_what_a_url_does_not_lead_to_is_one_line(server: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\n{server}/film.mp4\n")
    for name in ("nothing.mp4", "page.html", "list.m3u8"):
        with pytest.raises(InputError, match=f"{server}/{name}: not a readable video: "):
            probe(f"{server}/{name}")
    with pytest.raises(InputError, match="not a readable video: "):
        probe("http://127.0.0.1:9/film.mp4")
    with pytest.raises(InputError, match="expected http:// or https://, or the name of a file"):
        probe("s3://bucket/film.mp4")


def test_a_server_that_never_answers_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdst.data.video.container.TIMEOUT", (1.0, 1.0))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/park.mp4"
        with pytest.raises(InputError, match=r"park\.mp4: .*the server does not answer"):
            probe(url)


def test_only_a_text_with_a_scheme_is_a_url(tmp_path: Path) -> None:
    assert is_url("https://host/film.mp4")
    assert not is_url(Path("https://host/film.mp4"))
    assert not is_url("C:/films/film.mp4")
    (tmp_path / "list.txt").write_text("http://127.0.0.1:9/film.mp4\n")
    [listed] = find_videos([tmp_path / "list.txt"]).values()
    with pytest.raises(InputError, match="no such video file"):
        probe(listed)


@pytest.fixture
def decord() -> None:
    pytest.importorskip("decord", reason="decord has no wheel here")


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("frames_per_clip", [1, 3])
def test_decord_gives_the_same_frames(
    decord: None, ending: str, frames_per_clip: int, tmp_path: Path
) -> None:
    path = write_video(tmp_path / f"a.{ending}", list(TIMES), options={"bf": "2"})
    ours, its = (ClipReader(path, 1.0, frames_per_clip, reader) for reader in ("pyav", "decord"))
    for frames, same in zip(ours, its, strict=True):
        np.testing.assert_allclose(frames.astype(int), same.astype(int), atol=2)
    assert (its.clips, its.duration) == (ours.clips, pytest.approx(ours.duration))


def test_decord_gives_the_same_times_where_frames_are_uneven(decord: None, tmp_path: Path) -> None:
    times = [0.0, 0.1, 0.5, 1.7, 1.8, 2.9, 3.0, 3.4]
    path = write_video(tmp_path / "a.mp4", times, clock=100)
    ours, its = (times_shown(ClipReader(path, 0.5, 1, reader)) for reader in ("pyav", "decord"))
    # The length of the last frame, which no other one follows, is not known to decord.
    assert len(ours) - 1 <= len(its) <= len(ours)
    np.testing.assert_array_equal(ours[: len(its)], its)


def test_decord_refuses_what_is_to_be_turned(decord: None, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(TIMES), rotation=90)
    with pytest.raises(InputError, match=r"a.mp4: asks to be turned; .*leave the reader out"):
        next(ClipReader(path, 9.0, 1, "decord"))


def test_what_decord_cannot_read_is_one_line(decord: None, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", list(TIMES))
    cut_in_pictures(path, tmp_path / "cut.mp4", 0.5)
    with pytest.raises(InputError, match=r"cut.mp4: .*leave the reader out"):
        list(ClipReader(tmp_path / "cut.mp4", 1.0, 1, "decord"))


def test_without_decord_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdst.data.video.decord_frames.find_spec", lambda _: None)
    with pytest.raises(InputError, match="decord is not installed; pip install decord, or leave"):
        check_decord()


def test_a_folder_of_pictures_beside_files_is_copied_like_them(tmp_path: Path) -> None:
    folder = write_pictures(tmp_path / "park")
    shutil.copytree(folder, tmp_path / "copy")
    assert video_origins({"a": folder})["a"] == video_origins({"a": tmp_path / "copy"})["a"]
