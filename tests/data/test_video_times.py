"""Every container and codec that can be written here gives the frames that FFmpeg itself shows.

Frames show their own number, so that each can be identified exactly. The right frame for a time
comes from a plain decoding of the whole file, its times counted from the start of the file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdst.data.video import ClipReader, clip_times
from tests.videos import draw_time, times_shown

FPS, SECONDS = 25, 4
SIZE = (64, 48)
NUMBERS = np.arange(FPS * SECONDS)
B_FRAMES = {"bf": "2", "g": "12"}
LOSSY = [
    ("mp4", "libx264", {"g": "12"}),
    ("mp4", "mpeg4", B_FRAMES),
    ("mp4", "libx265", {"x265-params": "log-level=none"}),
    ("mov", "libx264", {"g": "12"}),
    ("mov", "mpeg2video", B_FRAMES),
    ("mkv", "libx264", {"g": "12"}),
    ("mkv", "mpeg4", B_FRAMES),
    ("mkv", "mpeg2video", B_FRAMES),
    ("mkv", "ffv1", {}),
    ("mkv", "libvpx-vp9", {"g": "12"}),
    ("mkv", "theora", {}),
    ("webm", "libvpx", {"g": "12"}),
    ("webm", "libvpx-vp9", {"g": "12"}),
    ("avi", "mpeg4", B_FRAMES),
    ("avi", "mpeg4", {"g": "12"}),
    ("avi", "libx264", {"g": "12"}),
    ("avi", "libx264", {"g": "250"}),
    ("avi", "mjpeg", {}),
    ("avi", "ffv1", {}),
    ("avi", "msmpeg4v2", {}),
    ("ts", "libx264", {"g": "12"}),
    ("ts", "mpeg2video", B_FRAMES),
    ("ts", "libx265", {"x265-params": "log-level=none"}),
    ("m2ts", "libx264", {"g": "12"}),
    ("mpg", "mpeg1video", B_FRAMES),
    ("mpg", "mpeg2video", B_FRAMES),
    ("vob", "mpeg2video", B_FRAMES),
    ("flv", "flv", {"g": "12"}),
    ("flv", "libx264", {"g": "12"}),
    ("ogv", "libtheora", {}),
    ("wmv", "wmv2", {"g": "12"}),
    ("wmv", "msmpeg4", {"g": "12"}),
    ("mxf", "mpeg2video", {"g": "12", "bf": "0"}),
    ("nut", "mpeg4", B_FRAMES),
]


def encode_sound(stream: av.AudioStream, seconds: float) -> list[av.Packet]:
    step = stream.codec_context.frame_size or 1024
    packets = []
    for first in range(0, round(stream.codec_context.sample_rate * seconds), step):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, step), np.int16), "s16", "mono")
        frame.sample_rate = stream.codec_context.sample_rate
        frame.pts, frame.time_base = first, Fraction(1, frame.sample_rate)
        packets += stream.encode(frame)
    return packets + stream.encode()


def write(
    path: Path,
    codec: str,
    options: dict[str, str],
    sound: str | None = None,
    seconds: float = SECONDS,
    starts: Sequence[int] = NUMBERS,
    **container_options: str,
) -> Path:
    """A video whose frame n shows n / 100 (s) and begins after so many frames' time, beside
    `seconds` of sound."""
    pix_fmt = {"mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    with av.open(str(path), "w", options=container_options) as container:
        pictures = container.add_stream(codec, rate=FPS, options=options)
        pictures.width, pictures.height, pictures.pix_fmt = *SIZE, pix_fmt
        pictures.codec_context.bit_rate = 2_000_000
        track = container.add_stream(sound, rate=48000, layout="mono") if sound else None
        packets = []
        for number, start in zip(NUMBERS, starts, strict=True):
            pixels = draw_time(number / 100, SIZE)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(start), Fraction(1, FPS)
            packets += pictures.encode(frame)
        packets += pictures.encode()
        if track is not None:
            packets += encode_sound(track, seconds)
        container.mux(sorted(packets, key=lambda packet: packet.dts * packet.time_base))
    return path


def oracle(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """When each frame starts (s), from the start of the file, and the number that it shows."""
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
        start = found[0].time if container.start_time is None else container.start_time / 1e6
        starts = np.array([frame.time for frame in found]) - start
        codec = container.streams.video[0].codec_context
        if (container.format.name, codec.name) == ("avi", "h264"):
            # AVI stores no times, and FFmpeg's guess of H.264's is out of order: each frame comes
            # out as late as the decoder holds frames back.
            starts = (np.arange(len(found)) + found[0].dts) / FPS
    numbers = [times_shown([frame.to_ndarray(format="rgb24")[None]])[0] for frame in found]
    return starts, np.round(100 * np.array(numbers)).astype(int)


def check(path: Path, starts: np.ndarray, numbers: np.ndarray, within: float = 0.5 / FPS) -> None:
    """Every frame read is the last one that starts no later than its time, the first before it;
    and the duration is right `within` some seconds."""
    for clip_length, frames_per_clip in ((0.4, 1), (1.0, 3)):
        reader = ClipReader(path, clip_length, frames_per_clip)
        shown = np.round(100 * times_shown(reader)).astype(int)
        assert reader.faults == []
        assert reader.duration == pytest.approx(starts.max() + 1 / FPS, abs=within)
        times = np.concatenate(
            [clip_times(clip, clip_length, frames_per_clip) for clip in range(reader.clips)]
        )
        due = np.searchsorted(starts, times + 2e-6, "right").clip(1) - 1
        np.testing.assert_array_equal(shown, numbers[due])


def skip_what_cannot_be_written(codec: str) -> None:
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this PyAV cannot encode {codec}")


SOUNDS = {
    "webm": "libopus",
    "ogv": "libvorbis",
    "wmv": "libmp3lame",
    "mxf": "pcm_s16le",
    "avi": "mp2",
}
SOUNDS |= {"mpg": "mp2", "vob": "mp2", "ts": "mp2"}


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize(("ending", "codec", "options"), LOSSY)
def test_frames_are_those_of_a_plain_decoding(
    tmp_path: Path, ending: str, codec: str, options: dict[str, str], sound: bool
) -> None:
    skip_what_cannot_be_written(codec)
    path = tmp_path / f"a.{ending}"
    try:
        write(path, codec, options, SOUNDS.get(ending, "aac") if sound else None)
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write {codec} in {ending}: {error}")
    starts, numbers = oracle(path)
    assert numbers.tolist() == NUMBERS.tolist()
    # The frames that a decoder holds back come later than H.264's guessed times in AVI say.
    guessed = (ending, codec) == ("avi", "libx264")
    check(path, starts, numbers, within=(2.5 if guessed else 0.5) / FPS)


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        ("mp4", "libx264"),
        ("mkv", "libx264"),
        ("ts", "mpeg2video"),
        ("flv", "libx264"),
        ("mov", "mpeg4"),
    ],
)
def test_frames_that_begin_after_the_sound_keep_their_time(tmp_path: Path, ending, codec) -> None:
    sound = SOUNDS.get(ending, "aac")
    path = write(tmp_path / f"a.{ending}", codec, {"g": "12"}, sound, 6, NUMBERS + 2 * FPS)
    starts, numbers = oracle(path)
    assert starts[0] == pytest.approx(2.0, abs=0.06)
    check(path, starts, numbers)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "flv", "mov"])
def test_sound_that_resumes_is_no_fault_of_the_frames(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a.{ending}", "libx264", {}, SOUNDS.get(ending, "aac"), 12)
    check(path, *oracle(path))


def test_a_fragmented_mp4_is_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", "libx264", {"g": "12"}, movflags="frag_keyframe+empty_moov")
    check(path, *oracle(path))


@pytest.mark.parametrize("ending", ["mkv", "flv"])
def test_a_file_whose_tracks_all_end_early_is_truncated(tmp_path: Path, ending: str) -> None:
    whole = write(tmp_path / f"whole.{ending}", "libx264", {"g": "12"}, "aac", 12)
    path = tmp_path / f"cut.{ending}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    reader = ClipReader(path, 0.4)
    assert sum(map(len, reader)) == reader.clips
    assert "truncated" in reader.faults[-1]


def transport_stream(path: Path, starts: np.ndarray = NUMBERS, **options: str) -> Path:
    return write(path, "libx264", {"g": "12", **options}, starts=starts)


@pytest.mark.parametrize("later", [0, 3, 1000, 90_000])
def test_joined_transport_streams_are_read_to_the_end(tmp_path: Path, later: int) -> None:
    parts = [
        transport_stream(tmp_path / f"{i}.ts", NUMBERS + i * later * FPS).read_bytes()
        for i in range(3)
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    reader = ClipReader(path, 0.4)
    assert len(times_shown(reader)) == reader.expected == 30
    assert (reader.duration, reader.faults) == (pytest.approx(12.0, abs=0.1), [])
    check(path, np.arange(3 * len(NUMBERS)) / FPS, np.tile(NUMBERS, 3))


@pytest.mark.parametrize(("before", "apart"), [(2, 1), (50, 25), (200, 100)])
def test_a_clock_that_wraps_runs_on(tmp_path: Path, before: int, apart: int) -> None:
    """33 bits of 90 kHz, begun so many seconds before they are over."""
    wrap = round((2**33 / 90_000 - before) * FPS)
    path = transport_stream(tmp_path / "a.ts", wrap + apart * NUMBERS)
    check(path, apart * NUMBERS / FPS, NUMBERS)


def test_a_short_gap_of_a_transport_stream_is_time(tmp_path: Path) -> None:
    starts = NUMBERS + 5 * FPS * (NUMBERS >= 50)
    check(transport_stream(tmp_path / "a.ts", starts), starts / FPS, NUMBERS)


def test_a_leap_of_a_transport_streams_clock_is_none(tmp_path: Path) -> None:
    starts = NUMBERS + 3600 * FPS * (NUMBERS >= 50)
    path = transport_stream(tmp_path / "a.ts", starts, bf="0")
    check(path, NUMBERS / FPS, NUMBERS)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_gap_of_other_files_is_time(tmp_path: Path, ending: str) -> None:
    starts = NUMBERS + 30 * FPS * (NUMBERS >= 50)
    check(transport_stream(tmp_path / f"a.{ending}", starts), starts / FPS, NUMBERS)


@pytest.fixture
def case() -> Path:
    """The folder of cases of real use, where it is present."""
    folder = Path(__file__).parents[3] / "shared" / "cases"
    folder = Path(os.environ.get("SDST_SHARED_CASES", folder))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set SDST_SHARED_CASES to the folder of cases")
    return folder


def test_the_joined_transport_streams_have_40_seconds(case: Path) -> None:
    reader = ClipReader(case / "joined-transport-streams" / "joined.ts", 1.0)
    assert sum(map(len, reader)) == 40
    assert (reader.duration, reader.faults) == (pytest.approx(40.0), [])


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv"])
def test_the_late_frames_are_those_of_the_whole_video_10_seconds_later(
    case: Path, name: str
) -> None:
    folder = case / "pictures-begin-after-the-sound"
    reader = ClipReader(folder / name, 1.0)
    late = np.concatenate(list(reader))
    whole = np.concatenate(list(ClipReader(folder / "longsound.mkv", 1.0)))
    np.testing.assert_array_equal(late[10:], whole)
    assert (len(late), reader.faults) == (50, [])


def test_the_long_sound_is_no_fault(case: Path) -> None:
    reader = ClipReader(case / "pictures-begin-after-the-sound" / "longsound.mkv", 1.0)
    assert sum(map(len, reader)) == 40
    assert reader.faults == []


def test_the_mirrored_video_is_mirrored(case: Path) -> None:
    folder = case / "mirrored-by-its-header"
    plain, mirrored = (next(ClipReader(folder / f"{x}.mp4", 2.0)) for x in ("plain", "mirrored"))
    np.testing.assert_array_equal(mirrored, plain[:, :, ::-1])
