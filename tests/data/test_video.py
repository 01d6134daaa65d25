"""Reading video files: the right frames, at the right times, and clear words about broken files."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from benchmarks import decoding
from sdst.data.video import ClipReader, VideoInfo, clip_times, num_clips, probe, thumbnails
from sdst.data.video.frames import Frames
from sdst.errors import InputError
from sdst.memory import peak_memory
from tests.videos import FPS, times_shown, write_video

SECONDS = 12
STEADY = np.arange(FPS * SECONDS) / FPS
X265 = {"x265-params": "log-level=none"}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file: 12 s, 10 pictures a second, B-frames, a key picture every second."""
    folder = tmp_path_factory.mktemp("video")
    return write_video(folder / "clock.mp4", STEADY, movflags="faststart")


def check_times(
    path: Path,
    starts: Sequence[float] = STEADY,
    clips: Sequence[tuple[float, int]] = ((1.0, 1), (2.0, 3)),
    late: float = 0.0,
) -> None:
    """Every frame read shows the last of `starts` (s) that is no later than its own time.

    The first of them is shown `late` seconds after the start of the file.
    """
    starts = np.asarray(starts)
    for clip_length, frames_per_clip in clips:
        reader = ClipReader(path, clip_length, frames_per_clip)
        shown = times_shown(reader)
        assert reader.clips == num_clips(reader.duration, clip_length)
        assert reader.faults == []
        times = [clip_times(clip, clip_length, frames_per_clip) for clip in range(reader.clips)]
        shown_at = starts - starts[0] + late
        latest = np.searchsorted(shown_at, np.concatenate(times) + 1e-6, "right") - 1
        latest = latest.clip(0)  # before the first
        np.testing.assert_allclose(shown, starts[latest], atol=0.006)  # shown in hundredths


def test_probe_reads_the_header(clock: Path):
    assert probe(clock) == VideoInfo(float(SECONDS), float(FPS), 64, 48, FPS * SECONDS)


@pytest.mark.parametrize(
    ("duration", "clip_length", "count"),
    [(150.0, 2.0, 75), (30.7, 1.0, 31), (30.4, 1.0, 30), (31.0, 2.0, 16), (0.3, 2.0, 1)],
)
def test_clips_are_counted_half_up_and_at_least_one(duration, clip_length, count):
    assert num_clips(duration, clip_length) == count


def test_frames_are_taken_at_the_centres_of_equal_parts():
    np.testing.assert_allclose(clip_times(3, 2.0, 2), [6.5, 7.5])


@pytest.mark.parametrize(
    "clips", [((0.1, 1),), ((0.5, 1),), ((1.0, 1),), ((2.0, 3),), ((3.0, 2),), ((5.0, 1),)]
)
def test_every_clip_shows_its_own_time(clock, clips):
    check_times(clock, clips=clips)


def test_frames_do_not_depend_on_what_is_left_undecoded(clock, monkeypatch):
    sparse = np.concatenate(list(ClipReader(clock, 2.0)))
    monkeypatch.setattr(Frames, "_jump_towards", lambda self, limit: None)
    np.testing.assert_array_equal(np.concatenate(list(ClipReader(clock, 2.0))), sparse)


def test_groups_of_pictures_between_the_times_are_not_decoded(clock):
    with av.open(str(clock)) as container:
        pictures = Frames(container, clock, FPS, jump=True)
        pictures.at(1.0)
        pictures.at(10.0)
        _, given = pictures.losses()
    assert given < 3 * FPS


@pytest.mark.parametrize(("codec", "options"), [("libx264", {"bf": "3"}), ("libx265", X265)])
def test_pictures_that_nothing_needs_are_not_decoded(tmp_path, codec, options):
    one_group = {**options, "g": "1000"}
    path = write_video(tmp_path / "a.mp4", STEADY, codec, options=one_group)
    check_times(path, clips=[(2.0, 1), (3.0, 2)])
    with av.open(str(path)) as container:
        pictures = Frames(container, path, FPS, jump=True)
        pictures.at(10.0)
        assert pictures._given < 0.8 * 10 * FPS


@pytest.mark.parametrize(
    ("ending", "codec", "options"),
    [
        ("mp4", "libx265", X265),
        ("mp4", "libx264", {"x264-params": "open-gop=1:bframes=3"}),
        ("ts", "libx264", {"x264-params": "intra-refresh=1"}),
        ("mkv", "libx264", {}),
        ("ts", "libx264", {}),
        ("flv", "flv", {}),
        ("avi", "mpeg4", {"bf": "2"}),
        ("avi", "mjpeg", {}),
        ("webm", "libvpx", {}),
        ("webm", "libvpx-vp9", {}),
        ("mkv", "libsvtav1", {}),
        ("mov", "prores_ks", {}),
        ("mp4", "libx264", {"flags": "+ildct+ilme"}),
    ],
)
def test_formats_and_codecs_give_the_same_times(tmp_path, ending, codec, options):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot encode {codec}")
    pix_fmt = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le"}.get(codec, "yuv420p")
    path = write_video(tmp_path / f"a.{ending}", STEADY, codec, pix_fmt, options=options)
    # AVI stores no times: frames come out one later than decoded where B-frames are reordered.
    check_times(path, late=1 / FPS if "bf" in options else 0.0)


def test_a_gif_is_a_video(tmp_path):
    check_times(write_video(tmp_path / "a.gif", STEADY, "gif", "rgb8"))


@pytest.mark.parametrize(
    ("codec", "pix_fmt"),
    [
        ("libx264", "yuv420p10le"),
        ("libx264", "yuv444p"),
        ("libx264", "gray"),
        ("qtrle", "argb"),
    ],
)
def test_pixel_formats_become_rgb(tmp_path, codec, pix_fmt):
    check_times(write_video(tmp_path / "a.mov", STEADY, codec, pix_fmt))


@pytest.mark.parametrize(("size", "pix_fmt"), [((63, 47), "yuv444p"), ((1, 48), "yuv444p")])
def test_odd_sizes_are_kept(tmp_path, size, pix_fmt):
    [frames] = ClipReader(write_video(tmp_path / "a.mp4", STEADY, "libx264", pix_fmt, size), 1.0)
    assert frames.shape == (SECONDS, size[1], size[0], 3)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_varying_frame_rate_is_sampled_by_time(tmp_path, ending):
    gaps = np.random.default_rng(0).choice([0.03, 0.05, 0.2, 0.9], 60)
    starts = np.concatenate([[0.0], np.cumsum(gaps)])
    path = write_video(tmp_path / f"a.{ending}", starts, clock=1000)
    check_times(path, starts, clips=[(0.25, 1), (1.0, 1), (2.0, 3)])


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv"])
def test_time_counts_from_the_first_picture(tmp_path, ending):
    codec = "flv" if ending == "flv" else "libx264"
    check_times(write_video(tmp_path / f"late.{ending}", STEADY, codec, shift=3.0))


def test_pictures_cut_off_by_an_edit_list_are_not_shown(tmp_path):
    path = write_video(tmp_path / "a.mp4", STEADY, shift=-1.0)
    assert probe(path).duration == SECONDS - 1
    check_times(path, STEADY[FPS:])


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_pictures_are_turned_as_the_file_asks(tmp_path, rotation):
    check_times(write_video(tmp_path / "a.mp4", STEADY, rotation=rotation))


IDENTITY = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((1, 0, 0, -1), lambda x: x[::-1]),
        ((-1, 0, 0, -1), lambda x: x[::-1, ::-1]),
        ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda x: x[::-1, ::-1].swapaxes(0, 1)),
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
    ],
)
def test_the_display_matrix_is_obeyed_whole(clock, tmp_path, matrix, shown):
    """(a, b, c, d) takes a pixel (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = (number << 16 for number in matrix)
    content = clock.read_bytes()
    track = content.rindex(IDENTITY)  # behind that of the movie
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "a.mp4"
    path.write_bytes(content[:track] + turned + content[track + len(turned) :])
    [plain], [frames] = ClipReader(clock, 20.0), ClipReader(path, 20.0)
    np.testing.assert_array_equal(frames[0], shown(plain[0]))


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_a_title_in_another_encoding_is_no_matter(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "TITLE"
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"TITLE", "Été à".encode("latin-1")))
    assert sum(map(len, ClipReader(path, 1.0))) == 1


def test_pixels_are_not_stretched_to_squares(tmp_path):
    path = write_video(tmp_path / "a.mp4", STEADY, options={"aspect": "16:9"})
    [frames] = ClipReader(path, 1.0)
    assert frames.shape[1:3] == (48, 64)


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "libx264"), ("ts", "libx264"), ("flv", "flv"), ("webm", "libvpx")]
)
def test_a_single_picture_is_a_clip(tmp_path, ending, codec):
    reader = ClipReader(write_video(tmp_path / f"a.{ending}", [0.0], codec), 1.0)
    assert times_shown(reader).tolist() == [0.0]
    assert (reader.clips, reader.faults) == (1, [])


def test_the_first_of_several_video_streams_is_read(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=FPS) for _ in range(2)]
        for stream, side in zip(streams, (64, 32), strict=True):
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
        for stream in streams:
            pixels = np.zeros((stream.height, stream.width, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    [frames] = ClipReader(path, 1.0)
    assert frames.shape == (1, 64, 64, 3)


@pytest.mark.parametrize("name", ["a:b c.mp4", "concat:a.mp4", "ünï 電.mp4", "%03d.mp4", "-a.mp4"])
def test_any_file_name_is_read(clock, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(clock.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert sum(map(len, ClipReader(name, 1.0))) == SECONDS


def test_batches_hold_whole_clips_and_a_bounded_number_of_them(clock, monkeypatch):
    monkeypatch.setattr("sdst.data.video.reader.BATCH_FRAMES", 8)
    sizes = [len(batch) for batch in ClipReader(clock, 1.0, 3)]
    assert sizes == [6, 6, 6, 6, 6, 6]


def test_large_frames_come_in_smaller_batches(clock, monkeypatch):
    monkeypatch.setattr("sdst.data.video.reader.BATCH_BYTES", 2 * 3 * 64 * 48)
    assert {len(batch) for batch in ClipReader(clock, 1.0)} == {2}


def test_a_clip_longer_than_the_video_is_one_clip(clock):
    [batch] = ClipReader(clock, 100.0)
    assert batch.shape == (1, 48, 64, 3)


def test_a_last_clip_that_reaches_beyond_the_end_repeats_the_last_frame(clock):
    shown = times_shown(ClipReader(clock, 8.0, 2))  # at 2, 6, 10 and 14 of 12 seconds
    np.testing.assert_allclose(shown, [2.0, 6.0, 10.0, STEADY[-1]])


def test_thumbnails_have_the_height_asked_for(clock):
    pictures = list(thumbnails(clock, 4.0, height=16))
    assert [picture.shape for picture in pictures] == [(16, 21, 3)] * 3


def test_a_real_video_is_read(shared_data: Path):
    reader = ClipReader(shared_data / "video" / "charades.mp4", 1.0)
    frames = sum(len(batch) for batch in reader)
    assert (reader.info.width, reader.info.height, frames, reader.faults) == (480, 270, 31, [])


@pytest.mark.parametrize(("clip_length", "frames_per_clip"), [(0.0, 1), (-1.0, 1), (1.0, 0)])
def test_senseless_clip_settings_are_refused(clock, clip_length, frames_per_clip):
    with pytest.raises(InputError, match="expected a positive length"):
        ClipReader(clock, clip_length, frames_per_clip)


# What is wrong with a file, and how much of it can be used.


def cut(path: Path, out: Path, share: float) -> Path:
    """The first `share` of a file's bytes."""
    content = path.read_bytes()
    out.write_bytes(content[: int(share * len(content))])
    return out


def damage(path: Path, out: Path, chosen: Callable[[av.Packet], bool]) -> Path:
    """A copy with noise in place of the chosen packets, all but their first bytes."""
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size and chosen(packet):
                start = content.index(bytes(packet))
                noise = rng.integers(1, 255, packet.size - 6, dtype=np.uint8)
                content[start + 6 : start + packet.size] = noise.tobytes()
    out.write_bytes(content)
    return out


def between(start: float, end: float) -> Callable[[av.Packet], bool]:
    """Packets of pictures that start then (s), key pictures left out."""
    return lambda packet: start <= packet.pts * packet.time_base < end and not packet.is_keyframe


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")]
)
@pytest.mark.parametrize(("clip_length", "frames_per_clip"), [(1.0, 1), (2.0, 3)])
def test_a_cut_file_is_used_as_far_as_it_goes(
    tmp_path, ending, codec, clip_length, frames_per_clip
):
    whole = tmp_path / f"whole.{ending}"
    # Faststart: the index of an mp4 in front. B-frames would leave gaps before the end.
    write_video(whole, STEADY, codec, options={"bf": "0"}, movflags="faststart")
    reader = ClipReader(cut(whole, tmp_path / f"cut.{ending}", 0.6), clip_length, frames_per_clip)
    shown = times_shown(reader)
    times = np.concatenate(
        [clip_times(clip, clip_length, frames_per_clip) for clip in range(reader.clips)]
    )
    assert 3 <= reader.clips < reader.expected == SECONDS / clip_length
    assert reader.duration == clip_length * reader.clips
    *_, fault = reader.faults  # the last picture may be cut, too
    end = float(re.search(r"truncated: the pictures end at (\d+\.\d) s of 12\.0 s", fault)[1])
    assert fault.endswith(f"{reader.clips} of {reader.expected} clips are used")
    # A clip that was begun is completed by the last picture.
    assert times[-frames_per_clip] < end
    expected = np.minimum(times, end - 1 / FPS)
    np.testing.assert_allclose(shown, np.floor(expected * FPS + 1e-6) / FPS, atol=0.006)


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("avi", "mpeg4"),
        ("webm", "libvpx-vp9"),
        ("flv", "flv"),
    ],
)
def test_pictures_that_cannot_be_decoded_are_replaced_by_the_ones_before(tmp_path, ending, codec):
    whole = write_video(tmp_path / f"whole.{ending}", STEADY, codec)
    reader = ClipReader(damage(whole, tmp_path / f"bad.{ending}", between(4.45, 4.75)), 0.5)
    expected = np.floor(10 * (np.arange(24) + 0.5) / 2 + 1e-6) / 10
    expected[expected == 4.7] = 4.4
    np.testing.assert_allclose(times_shown(reader), expected, atol=0.006)
    [fault] = reader.faults
    # One that neither a time nor another picture needs is not looked at.
    assert re.search(rf"bad\.{ending}: [23] of ", fault)
    assert fault.endswith(" pictures cannot be decoded; the ones before stand in")
    assert (reader.clips, reader.duration) == (24, SECONDS)


def test_pictures_that_hevc_drops_without_a_word_are_reported(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", STEADY, "libx265", options=X265)
    reader = ClipReader(damage(whole, tmp_path / "bad.mp4", between(4.45, 4.75)), 0.5)
    shown = times_shown(reader)
    assert set(shown) <= set(STEADY)
    [fault] = reader.faults
    assert "cannot be decoded" in fault


def test_a_damaged_key_picture_is_not_jumped_to(clock, tmp_path):
    def keys(packet: av.Packet) -> bool:
        return packet.is_keyframe and 3.5 < packet.pts * packet.time_base < 6.5

    reader = ClipReader(damage(clock, tmp_path / "bad.mp4", keys), 1.0)
    shown = times_shown(reader)
    intact = np.r_[0:4, 7:SECONDS]
    np.testing.assert_allclose(shown[intact], intact + 0.5, atol=0.006)
    assert "cannot be decoded" in reader.faults[0]


def test_a_file_that_changes_before_it_is_read_is_refused(clock, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(clock.read_bytes())
    reader = ClipReader(path, 1.0)
    path.write_bytes(clock.read_bytes()[:-1])
    with pytest.raises(InputError, match="changed while it was read"):
        next(reader)


def test_a_file_that_vanishes_while_it_is_read_is_read_to_its_end(clock, tmp_path, monkeypatch):
    monkeypatch.setattr("sdst.data.video.reader.BATCH_FRAMES", 2)
    path = tmp_path / "a.mp4"
    path.write_bytes(clock.read_bytes())
    reader = ClipReader(path, 1.0)
    first = next(reader)
    path.unlink()
    np.testing.assert_allclose(times_shown([first, *reader]), np.arange(SECONDS) + 0.5)


def test_a_video_is_as_long_as_its_frames_though_sound_outlasts_them(tmp_path):
    """Matroska states one length for all streams."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("libx264", rate=FPS)
        pictures.width = pictures.height = 64
        pictures.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(5 * FPS):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        container.mux(sound.encode(silence(seconds=6)))
        container.mux(sound.encode())
    reader = ClipReader(path, 1.0)
    assert sum(map(len, reader)) == reader.expected == 5
    assert (reader.duration, reader.faults) == (5.0, [])


def silence(seconds: int) -> av.AudioFrame:
    """Mono sound at 16 kHz."""
    samples = np.zeros((1, 16000 * seconds), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
    frame.sample_rate = 16000
    return frame


def refused(path: Path, reason: str) -> None:
    """Reading `path` fails with one line that names it and gives the reason."""
    with pytest.raises(InputError, match=reason) as caught:
        for _ in ClipReader(path, 1.0):
            pass
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path):
    refused(tmp_path / "nowhere.mp4", "no such video file")


def test_a_folder_is_refused(tmp_path: Path):
    refused(tmp_path, "a folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(clock: Path, tmp_path: Path):
    path = tmp_path / "secret.mp4"
    path.write_bytes(clock.read_bytes())
    path.chmod(0)
    refused(path, "Permission denied")


def test_an_empty_file_is_refused(tmp_path: Path):
    path = tmp_path / "empty.mp4"
    path.touch()
    refused(path, "empty")


def test_a_text_file_under_a_video_name_is_refused(tmp_path: Path):
    path = tmp_path / "text.mp4"
    path.write_text("this is not a video\n" * 100)
    refused(path, "not a readable video")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile clock.mp4\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile clock.mp4\n"),
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclock.mp4\n#EXT-X-ENDLIST\n"),
        ("a.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nclock.mp4\n#EXT-X-ENDLIST\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
    ],
)
def test_what_leads_to_other_files_is_refused(clock, tmp_path: Path, name: str, content: str):
    (tmp_path / "clock.mp4").write_bytes(clock.read_bytes())
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, "not a readable video")


def test_numbered_pictures_are_refused(tmp_path: Path):
    for name in ("%03d.png", "000.png", "001.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    refused(tmp_path / "%03d.png", "not a readable video")


@pytest.mark.parametrize("name", ["concat:a.mp4|a.mp4", "file:a.mp4", "pipe:0"])
def test_names_of_protocols_are_names_of_files(clock, tmp_path: Path, monkeypatch, name: str):
    (tmp_path / "a.mp4").write_bytes(clock.read_bytes())
    monkeypatch.chdir(tmp_path)
    refused(name, "no such video file")


def write_sound(path: Path, cover: bool = False) -> Path:
    """A second of silence, with a picture of the album if asked for."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        if cover:
            picture = container.add_stream("mjpeg", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
            pixels = np.zeros((32, 32, 3), np.uint8)
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(picture.encode())
        container.mux(stream.encode(silence(seconds=1)))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("cover", [False, True])
def test_sound_without_moving_pictures_is_refused(tmp_path: Path, cover):
    refused(write_sound(tmp_path / "sound.mp4", cover), r"no video stream \(streams found: audio")


def test_a_still_picture_is_refused(tmp_path: Path):
    path = tmp_path / "still.jpg"
    Image.new("RGB", (32, 32)).save(path)
    refused(path, "still picture")


def test_a_video_without_pictures_is_refused(tmp_path: Path):
    path = tmp_path / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
    refused(path, "zero length")


def test_a_file_cut_before_its_index_is_refused(tmp_path: Path):
    whole = write_video(tmp_path / "whole.mp4", STEADY)
    refused(cut(whole, tmp_path / "cut.mp4", 0.5), "not a readable video")


def test_a_file_of_which_nothing_decodes_is_refused(tmp_path: Path):
    whole = write_video(tmp_path / "whole.avi", STEADY, "mjpeg", "yuvj420p")
    refused(damage(whole, tmp_path / "bad.avi", lambda packet: True), "no frame can be decoded")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path):
    minute, long = tmp_path / "minute.mp4", tmp_path / "long.mp4"
    decoding.write_minute(minute, group=2)
    peaks = []
    for minutes in (5, 20):
        decoding.repeat(minute, long, minutes)
        peaks.append(peak_memory(lambda: decoding.read_ours(long, 2.0)))
    assert peaks[1] < 1.1 * peaks[0] < 300 * 2**20
