"""A folder of numbered pictures as a video: in natural order, as fast as `frame_rate.txt` says."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from sdst.data.video.container import VideoInfo
from sdst.data.video_files import FRAME_RATE, picture_files
from sdst.errors import InputError
from sdst.files.text import read_lines

_RATE = re.compile(r"(\d+(?:\.\d+)?|\d+/\d+)(?:\s*fps)?", re.IGNORECASE)
MOST_FPS = 1000
ROUNDING = 1e-6  # s


def probe_pictures(folder: Path) -> VideoInfo:
    """The rate and the first picture of a folder.

    Raises:
        InputError: there is no picture that can be read, or no frame rate.
    """
    files, rate = picture_files(folder), frame_rate(folder)
    if not files:
        raise InputError(f"{folder}: has {FRAME_RATE}, but no picture; expected numbered ones")
    height, width, _ = _first_readable(files, folder).shape
    return VideoInfo(
        duration=len(files) / rate, fps=rate, width=width, height=height, num_frames=len(files)
    )


def pictures_version(folder: Path) -> tuple[int, int, int]:
    """Differs once a picture is added, removed or written to, or the rate is."""
    try:
        found = [file.stat() for file in (*picture_files(folder), folder / FRAME_RATE)]
    except OSError as error:
        raise InputError(f"{folder}: not a readable video: {error.strerror}") from None
    return len(found), sum(x.st_size for x in found), max(x.st_mtime_ns for x in found)


def frame_rate(folder: Path) -> float:
    """Pictures per second, as `frame_rate.txt` of the folder says: `25`, `29.97` or `30000/1001`.

    Raises:
        InputError: it says something else.
    """
    path = folder / FRAME_RATE
    lines = read_lines(path)
    found = _RATE.fullmatch(lines[0]) if len(lines) == 1 else None
    rate = 0.0
    if found and not found[1].endswith("/0"):
        rate = float(Fraction(found[1]))
    if not 0 < rate <= MOST_FPS:
        raise InputError(
            f"{path}: {' '.join(lines)[:40]!r}, expected pictures per second, as 25 or 30000/1001"
        )
    return rate


class PictureFrames:
    """The pictures of a folder by their time, as `sdst.data.video.frames.Frames` has those of a
    file; only what is asked for is read. One that cannot be read is stood in for by the one before.

    Args:
        folder: of pictures.
        fps: pictures per second.
    """

    def __init__(self, folder: Path, fps: float) -> None:
        self._files, self._fps = picture_files(folder), fps
        self._index = -1
        self._last: av.VideoFrame | None = None
        self._failed = self._given = 0
        self._first = _as_frame(_first_readable(self._files, folder))

    @property
    def end(self) -> float:
        """Seconds at which the last picture ends."""
        return len(self._files) / self._fps

    @property
    def reached(self) -> float:
        """The same: all pictures are known."""
        return self.end

    def go_beyond(self, time: float) -> bool:
        """Whether there are pictures after `time` (s)."""
        return self.end > time + ROUNDING

    def at(self, time: float) -> av.VideoFrame:
        """The picture that is shown at `time` (s); the last one afterwards."""
        index = min(max(math.floor((time + ROUNDING) * self._fps), 0), len(self._files) - 1)
        if index != self._index:
            self._index = index
            self._given += 1
            pixels = read_picture(self._files[index])
            self._failed += pixels is None
            if pixels is not None:
                self._last = _as_frame(pixels)
        return self._last or self._first

    def losses(self) -> tuple[int, int]:
        """How many of the pictures asked for could not be read, and how many those were."""
        return self._failed, self._given


def read_picture(path: Path) -> np.ndarray | None:
    """RGB `[H, W, 3]`, uint8, turned as the file asks for; None where it cannot be read."""
    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception:  # Pillow's readers raise whatever a broken file leads them to
        return None


def _first_readable(files: list[Path], folder: Path) -> np.ndarray:
    for pixels in map(read_picture, files):
        if pixels is not None:
            return pixels
    raise InputError(f"{folder}: none of its {len(files):,} pictures can be read")


def _as_frame(pixels: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
