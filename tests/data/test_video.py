"""Reading video files: the right frames, at the right times, and clear words about broken files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from sdst.data import video
from sdst.data.video import ClipReader, clip_times, num_clips, probe, thumbnails
from sdst.errors import InputError

FPS, SECONDS, SIZE = 10, 12, 48


def write_counting_video(path: Path, **container_options: str) -> Path:
    """A video whose frame i has grey level 20 + i, so a frame tells its own time."""
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "8", "g": "10"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for i in range(FPS * SECONDS):
            pixels = np.full((SIZE, SIZE, 3), 20 + i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def shown(batches) -> np.ndarray:
    """The frame numbers that batches of a counting video show."""
    return np.concatenate([batch.mean(axis=(1, 2, 3)) for batch in batches]) - 20


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    return write_counting_video(folder / "counting.mp4", movflags="faststart")


@pytest.fixture(params=["decord", "PyAV"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every frame comes from this decoder."""
    if request.param == "PyAV":
        monkeypatch.setattr(video, "decord", None)
    else:
        pytest.importorskip("decord")
        monkeypatch.setattr(video, "JUMP_SECONDS", 0.0)
    return request.param


def test_probe_reads_the_header(counting: Path):
    info = probe(counting)
    assert info == video.VideoInfo(float(SECONDS), float(FPS), SIZE, SIZE, FPS * SECONDS)


@pytest.mark.parametrize(
    ("duration", "clip_length", "count"),
    [(150.0, 2.0, 75), (30.7, 1.0, 31), (30.4, 1.0, 30), (31.0, 2.0, 16), (0.3, 2.0, 1)],
)
def test_clips_are_counted_half_up_and_at_least_one(duration, clip_length, count):
    assert num_clips(duration, clip_length) == count


def test_frames_are_taken_at_the_centres_of_equal_parts():
    np.testing.assert_allclose(clip_times(4.0, 2.0, 2), [0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize(("clip_length", "frames_per_clip"), [(1.0, 1), (2.0, 1), (2.0, 3)])
def test_every_clip_shows_its_own_time(counting, decoder, clip_length, frames_per_clip):
    times = clip_times(SECONDS, clip_length, frames_per_clip)
    frames = shown(ClipReader(counting, clip_length, frames_per_clip))
    np.testing.assert_allclose(frames, np.floor(times * FPS + 1e-6), atol=1.0)


def test_decoders_give_the_same_pixels(counting, monkeypatch):
    pytest.importorskip("decord")
    by_decord = np.concatenate(list(ClipReader(counting, 2.0)))
    monkeypatch.setattr(video, "decord", None)
    np.testing.assert_array_equal(np.concatenate(list(ClipReader(counting, 2.0))), by_decord)


def test_pyav_carries_on_where_decord_fails(counting, monkeypatch):
    decord = pytest.importorskip("decord")
    whole = np.concatenate(list(ClipReader(counting, 2.0)))

    def fail_after_one_batch(sampler, batch):
        yield whole[:batch]
        raise decord.DECORDError("cannot go on")

    monkeypatch.setattr(video, "BATCH_FRAMES", 2)
    monkeypatch.setattr(video, "_decode_decord", fail_after_one_batch)
    np.testing.assert_array_equal(np.concatenate(list(ClipReader(counting, 2.0))), whole)


def test_batches_hold_whole_clips_and_a_bounded_number_of_them(counting, monkeypatch):
    monkeypatch.setattr(video, "BATCH_FRAMES", 8)
    sizes = [len(batch) for batch in ClipReader(counting, 1.0, 3)]
    assert sizes == [6, 6, 6, 6, 6, 6]


def test_large_frames_come_in_smaller_batches(counting, monkeypatch):
    monkeypatch.setattr(video, "BATCH_BYTES", 2 * 3 * SIZE * SIZE)
    assert {len(batch) for batch in ClipReader(counting, 1.0)} == {2}


def test_a_clip_longer_than_the_video_is_one_clip(counting, decoder):
    [batch] = ClipReader(counting, 100.0)
    assert batch.shape == (1, SIZE, SIZE, 3)


def test_a_last_clip_that_reaches_beyond_the_end_repeats_the_last_frame(counting, decoder):
    frames = shown(ClipReader(counting, 8.0, 2))  # at 2, 6, 10 and 14 of 12 seconds
    np.testing.assert_allclose(frames, [20, 60, 100, FPS * SECONDS - 1], atol=1.0)


def test_thumbnails_have_the_height_asked_for(counting):
    pictures = thumbnails(counting, [1.0, 6.0], height=16)
    assert [picture.shape for picture in pictures] == [(16, 16, 3)] * 2


def test_a_real_video_is_read(shared_data: Path, decoder):
    path = shared_data / "video" / "charades.mp4"
    info = probe(path)
    frames = sum(len(batch) for batch in ClipReader(path, 1.0))
    assert (info.width, info.height, frames) == (480, 270, 31)


@pytest.mark.parametrize(("clip_length", "frames_per_clip"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_senseless_clip_settings_are_refused(counting, clip_length, frames_per_clip):
    with pytest.raises(InputError, match="expected a positive length"):
        ClipReader(counting, clip_length, frames_per_clip)


def refused(path: Path, reason: str) -> None:
    """Reading `path` fails with one line that names it and gives the reason."""
    with pytest.raises(InputError, match=reason) as caught:
        for _ in ClipReader(path, 1.0):
            pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    refused(tmp_path / "nowhere.mp4", "no such video file")


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "empty.mp4"
    path.touch()
    refused(path, "empty")


def test_a_text_file_under_a_video_name_is_refused(tmp_path: Path):
    path = tmp_path / "text.mp4"
    path.write_text("this is not a video\n" * 100)
    refused(path, "not a readable video")


def test_sound_without_pictures_is_refused(tmp_path: Path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    refused(path, r"no video stream \(streams found: audio\)")


def test_a_still_picture_is_refused(tmp_path: Path):
    from PIL import Image

    path = tmp_path / "still.jpg"
    Image.new("RGB", (32, 32)).save(path)
    refused(path, "still picture")


def test_a_file_cut_in_its_header_is_refused(tmp_path: Path):
    whole = write_counting_video(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    refused(path, "not a readable video")


def cut(whole: Path, path: Path, share: float) -> Path:
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("frames_per_clip", [1, 2])
def test_of_a_file_cut_in_its_pictures_the_first_clips_are_used(
    counting: Path, decoder, tmp_path: Path, frames_per_clip: int
):
    path = cut(counting, tmp_path / "cut.mp4", 2 / 3)
    reader = ClipReader(path, 2.0, frames_per_clip)
    frames = shown(reader)
    times = clip_times(SECONDS, 2.0, frames_per_clip)[: len(frames)]
    expected = np.floor(times * FPS + 1e-6)
    assert 0 < reader.clips < num_clips(SECONDS, 2.0)
    assert len(frames) == reader.clips * frames_per_clip
    # A clip that was begun is completed by its last picture.
    np.testing.assert_allclose(frames[:-1], expected[:-1], atol=1.0)
    assert reader.duration == 2.0 * reader.clips
    *_, fault = reader.faults  # the last picture may be cut, too
    assert "truncated: the pictures end at" in fault
    assert f"{reader.clips} of 6 clips are used" in fault


def test_of_a_cut_file_thumbnails_repeat_the_last_picture(counting: Path, tmp_path: Path):
    path = cut(counting, tmp_path / "cut.mp4", 2 / 3)
    pictures = thumbnails(path, [1.0, 9.0, 11.0], height=16)
    assert len(pictures) == 3
    np.testing.assert_array_equal(pictures[1], pictures[2])


def test_a_sound_file_has_no_faults(counting: Path, decoder):
    reader = ClipReader(counting, 2.0)
    assert len(shown(reader)) == reader.clips == SECONDS / 2
    assert (reader.faults, reader.duration) == ([], SECONDS)


def test_a_few_broken_packets_do_not_stop_the_reading(counting: Path, tmp_path: Path):
    content = bytearray(counting.read_bytes())
    middle = content.index(b"mdat") + (len(content) - content.index(b"mdat")) // 2
    content[middle : middle + 64] = bytes(64)
    path = tmp_path / "scratched.mp4"
    path.write_bytes(content)
    assert len(shown(ClipReader(path, 1.0))) == SECONDS
