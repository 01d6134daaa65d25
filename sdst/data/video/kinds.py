"""The kinds of video that there are, behind one way to read their frames: files and URLs, read by
PyAV or decord, and folders of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import av

from sdst.data.video.container import VideoInfo, file_version, open_video, probe_file, stated_end
from sdst.data.video.decord_frames import DecordFrames
from sdst.data.video.frames import Frames
from sdst.data.video.pictures import PictureFrames, pictures_version, probe_pictures
from sdst.data.video_files import is_picture_folder, is_url

Reader = Literal["pyav", "decord"]
READERS: tuple[Reader, ...] = ("pyav", "decord")


class FrameSource(Protocol):
    """Frames by their time, asked for in ascending order; seconds."""

    @property
    def end(self) -> float | None:
        """Where the last frame ends; None before that is known."""

    @property
    def reached(self) -> float:
        """Where the last frame ends, or the last one known so far."""
        ...

    def go_beyond(self, time: float) -> bool:
        """Whether there are frames after `time`."""
        ...

    def at(self, time: float) -> av.VideoFrame:
        """The last frame that starts no later than `time`; the first, if none does."""
        ...

    def losses(self) -> tuple[int, int]:
        """How many frames could not be decoded, and of how many."""
        ...


class Opened(NamedTuple):
    """A video that is read.

    Args:
        stated: seconds at which it says that its frames end, None if it does not; and whether that
            is the end of the longest of all its tracks.
    """

    frames: FrameSource
    stated: tuple[float | None, bool]


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video, or of a folder's first picture.

    Raises:
        InputError: it is missing, is no video, has no video stream or has no length.
    """
    return probe_pictures(Path(path)) if is_picture_folder(path) else probe_file(path)


def video_version(path: str | Path) -> tuple[int, int, int]:
    """Differs once another video has taken the name, or it was written to; of a URL never."""
    if is_url(path):
        return 0, 0, 0
    return pictures_version(Path(path)) if is_picture_folder(path) else file_version(path)


@contextmanager
def open_frames(path: str | Path, fps: float, jump: bool, reader: Reader) -> Iterator[Opened]:
    """The frames of a video, as long as the block runs.

    Args:
        fps, jump: as `sdst.data.video.frames.Frames` takes them.
        reader: of a file; folders and URLs are always read in the same way.

    Raises:
        InputError: it cannot be read.
    """
    if is_picture_folder(path):
        yield Opened(PictureFrames(Path(path), fps), (None, False))
    elif reader == "decord" and not is_url(path):
        yield Opened(DecordFrames(path), (None, False))
    else:
        with open_video(path) as container:
            stated = stated_end(container, path)
            yield Opened(Frames(container, path, fps, jump), stated)
