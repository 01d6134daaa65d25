"""Clips hold the frames and the sound of their moment, copied where that is exact."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdst.data.video import thumbnails
from sdst.errors import InputError
from sdst.grounding.export import Moment
from sdst.grounding.export.clips import clip_names, cut, cut_all

FPS, GROUP, FRAMES, RATE = 10, 10, 50, 8000


def write_film(path: Path, codec: str = "libx264", sound: str | None = "aac", **options) -> Path:
    """Frame n has grey level 5 n; a key frame every second; a tone."""
    with av.open(str(path), "w") as container:
        settings = {}
        if codec == "libx264":
            settings = {"g": str(GROUP), "crf": "1", "sc_threshold": "0", **options}
        video = container.add_stream(codec, rate=FPS, options=settings)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        audio = container.add_stream(sound, rate=RATE, layout="mono") if sound else None
        for n in range(FRAMES):
            grey = np.full((64, 64, 3), 5 * n, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(video.encode())
        if audio is not None:
            wave = np.sin(np.arange(FRAMES * RATE // FPS)).astype(np.float32)[None] / 2
            frame = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def frames_in(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        frames = [x.to_ndarray(format="rgb24").mean() for x in container.decode(video=0)]
    return [round(grey / 5) for grey in frames]


def sound_in(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(x.samples for x in container.decode(audio=0)) / RATE


@pytest.mark.parametrize(
    ("start", "end", "copied"), [(1.0, 3.0, True), (2.0, 5.0, True), (1.3, 3.1, False)]
)
def test_a_clip_has_the_frames_of_its_moment(tmp_path, start, end, copied):
    film = write_film(tmp_path / "film.mp4", bf="0")
    out = tmp_path / "clip.mp4"
    assert cut(Moment(film, "a", 1, start, end, 0.5), out) == copied
    assert frames_in(out) == list(range(round(start * FPS), round(end * FPS)))
    assert sound_in(out) == pytest.approx(end - start, abs=0.3)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_frames_that_need_one_outside_are_encoded(tmp_path):
    film = write_film(tmp_path / "film.mp4", bf="3", b_adapt="0")
    for end in (2.5, 2.6, 2.7, 2.8):
        cut(Moment(film, "a", 1, 1.0, end, 0.5), tmp_path / "clip.mp4")
        assert frames_in(tmp_path / "clip.mp4") == list(range(10, round(end * FPS)))


def test_other_codecs_and_videos_without_sound_are_encoded(tmp_path):
    film = write_film(tmp_path / "film.avi", "ffv1", None)
    assert not cut(Moment(film, "a", 1, 1.0, 2.0, 0.5), tmp_path / "clip.mp4")
    assert len(frames_in(tmp_path / "clip.mp4")) == 10


def test_a_moment_between_two_frames_has_the_one_that_is_shown(tmp_path):
    film = write_film(tmp_path / "film.mp4")
    cut(Moment(film, "a", 1, 1.26, 1.31, 0.5), tmp_path / "clip.mp4")
    assert frames_in(tmp_path / "clip.mp4") in ([12], [13])


@pytest.mark.parametrize("start", [0.5, 0.55])
def test_a_clip_is_shown_as_its_file_is(tmp_path, request, start):
    shared = Path(__file__).parents[4] / "shared" / "cases" / "mirrored-by-its-header"
    if not shared.is_dir():
        pytest.skip(f"{shared} is not here")
    film = shared / "mirrored.mp4"
    cut(Moment(film, "a", 1, start, start + 0.4, 0.5), tmp_path / "clip.mp4")
    whole = [np.asarray(x, float) for x in thumbnails(film, 0.1, 64)]
    first = next(thumbnails(tmp_path / "clip.mp4", 0.1, 64)).astype(float)
    closest = min(np.abs(first - x).mean() for x in whole if x.shape == first.shape)
    assert closest < 6
    assert closest < np.abs(first[:, ::-1] - whole[0]).mean()


def test_names_are_told_apart():
    moments = [Moment(Path(x), "A dog, a cat!", 1, 0, 1, 0.5) for x in ("a/f.mp4", "b/f.mkv")]
    assert clip_names(moments) == ["f.A-dog-a-cat.1.mp4", "f.A-dog-a-cat.1~2.mp4"]


def test_a_folder_is_made_and_what_is_no_video_is_named(tmp_path):
    film = write_film(tmp_path / "film.mp4")
    [clip] = cut_all([Moment(film, "a", 1, 0.0, 1.0, 0.5)], tmp_path / "new" / "clips")
    assert clip.is_file()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(InputError, match=r"broken\.mp4"):
        cut_all([Moment(broken, "a", 1, 0.0, 1.0, 0.5)], tmp_path / "clips")
    assert list((tmp_path / "clips").iterdir()) == []
