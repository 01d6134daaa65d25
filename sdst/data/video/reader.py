"""Clips of a video: frames at the centres of equal parts of each, in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from PIL import Image

from sdst.data.video.container import (
    VideoInfo,
    file_start,
    last_packet_end,
    open_video,
    video_stream,
)
from sdst.data.video.frames import ROUNDING, JumpError
from sdst.data.video.kinds import FrameSource, Reader, open_frames, probe, video_version
from sdst.errors import InputError

BATCH_FRAMES = 64
BATCH_BYTES = 64 * 2**20

LONGER_THAN_ANY = 1e9  # seconds: one clip, of which one frame is asked for

# Frames that end this much before where the file says they do are no fault.
MISSING_SECONDS = 2.0


def num_clips(duration: float, clip_length: float) -> int:
    """Clips of `clip_length` seconds in a video of `duration` seconds.

    Rounded to the nearest (half up) and at least 1: a remainder shorter than half a clip belongs to
    nobody, a longer one is a clip of its own.
    """
    return max(1, math.floor(duration / clip_length + 0.5))


def clip_times(clip: int, clip_length: float, frames_per_clip: int = 1) -> np.ndarray:
    """Seconds at which a clip is sampled, the centres of equal parts of it: `[frames_per_clip]`."""
    return (clip + (np.arange(frames_per_clip) + 0.5) / frames_per_clip) * clip_length


class ClipReader(Iterator[np.ndarray]):
    """Frames of a video, `frames_per_clip` of every clip, in batches of whole clips.

    Frames are picked by time, at the centres of `frames_per_clip` equal parts of each clip, so
    variable frame rates need no care; a clip that reaches beyond the last frame repeats it, and one
    before the first frame shows that. Clips end where the frames do. Of a damaged file the frames
    that decode are given: one that does not is stood in for by the one before, and of a truncated
    file the last clip begun is completed. A clock that jumps back, or leaps, runs on.

    Pixels are those that the file stores, turned and mirrored the way it asks for. They are not
    stretched where it asks for other than square ones (no more than in frames that ffmpeg writes as
    pictures), and alpha is left out.

    Args:
        path: a video file, a folder of pictures with a `frame_rate.txt`, or a URL.
        clip_length: seconds.
        frames_per_clip: at least 1.
        reader: of a file. `decord` gives the frames of PyAV on files that are whole, and what it
            does not know is in `sdst.data.video.decord_frames`.

    Attributes:
        info: what the header says.
        expected: clips that the video should have, `num_clips` of its estimated duration; once all
            are given, the true number.
        clips: how many were given so far.
        most_frames: that memory should hold of this video at a time.
        batch_frames: of a batch, no more than that. Both may be set before the first one is read.
        faults: what is wrong with the file, a line each; complete when the batches are.

    Yields:
        RGB frames in order, uint8 `[T, H, W, 3]`, at the size stored in the file; T is a multiple
        of `frames_per_clip`.

    Raises:
        InputError: see `probe`; also a file that nothing can be decoded from, or that was changed
            since the header was read.
    """

    def __init__(
        self,
        path: str | Path,
        clip_length: float,
        frames_per_clip: int = 1,
        reader: Reader = "pyav",
    ):
        if clip_length <= 0 or frames_per_clip < 1:
            raise InputError(
                f"clip_length {clip_length} s, frames_per_clip {frames_per_clip}: "
                "expected a positive length and at least one frame"
            )
        self.info = probe(path)
        self.expected = num_clips(self.info.duration, clip_length)
        self.clips = 0
        self.most_frames = min(
            BATCH_FRAMES, BATCH_BYTES // (3 * self.info.width * self.info.height)
        )
        self.batch_frames = self.most_frames
        self.faults: list[str] = []
        self._duration = self.info.duration
        self._path, self._version = path, video_version(path)
        self._reader: Reader = reader
        self._clip_length, self._frames_per_clip = clip_length, frames_per_clip
        # Where the file states that its frames, or all its tracks end, and whether they do.
        self._stated: float | None = None
        self._all_tracks, self._whole = False, None
        self._rotation: float | None = None  # of the last frame, which `_matrix` is of
        self._matrix: np.ndarray | None = None
        self._batches = self._read()

    @property
    def duration(self) -> float:
        """Seconds to the end of the frames, or of a truncated file, of the clips that were given;
        an estimate until all are."""
        return self._duration

    def __next__(self) -> np.ndarray:
        batch = next(self._batches)
        self.clips += len(batch) // self._frames_per_clip
        return batch

    def _read(self) -> Iterator[np.ndarray]:
        try:
            yield from self._decode(jump=True)
        except JumpError:
            yield from self._decode(jump=False)

    def _decode(self, jump: bool) -> Iterator[np.ndarray]:
        """The batches from clip `self.clips` on."""
        size = max(1, min(self.batch_frames, self.most_frames) // self._frames_per_clip)
        batch: list[np.ndarray] = []
        with open_frames(self._path, self.info.fps, jump, self._reader) as opened:
            if video_version(self._path) != self._version:
                raise InputError(f"{self._path}: changed while it was read; try again")
            frames, (self._stated, self._all_tracks) = opened
            clip = self.clips
            while self._has_clip(clip, frames):
                times = clip_times(clip, self._clip_length, self._frames_per_clip)
                found = [frames.at(time) for time in times]
                if frames.end is not None and not self._has_clip(clip, frames):
                    break  # what was to come does not decode
                batch += map(self._to_rgb, found)
                clip += 1
                if len(batch) == size * self._frames_per_clip:
                    full = np.stack(batch)
                    batch.clear()  # while the batch is worked on, memory holds it once
                    yield full
                    del full
            if batch:
                yield np.stack(batch)
            self._assess(frames)

    def _has_clip(self, clip: int, frames: FrameSource) -> bool:
        """Whether the frames reach the middle of a clip; of a truncated file, its first frame."""
        middle = (clip + 0.5) * self._clip_length
        if clip == 0 or frames.go_beyond(middle):
            return True
        if self._is_truncated(frames.reached):
            first = clip_times(clip, self._clip_length, self._frames_per_clip)[0]
            return first < frames.reached - ROUNDING
        return frames.reached >= middle - ROUNDING

    def _is_truncated(self, end: float) -> bool:
        """Whether the file claims to continue after its frames, which end at `end` (s)."""
        if self._stated is None or self._stated - end <= MISSING_SECONDS:
            return False
        if self._whole is None:
            self._whole = self._all_tracks and self._stated - self._last_end() <= MISSING_SECONDS
        return not self._whole

    def _last_end(self) -> float:
        """Seconds at which the last packet of sound or frames ends."""
        try:
            with open_video(self._path) as container:
                return last_packet_end(container)
        except InputError:  # gone since it was opened: what it states stands
            return -math.inf

    def _assess(self, frames: FrameSource) -> None:
        lost, given = frames.losses()
        if lost:
            self.faults.append(
                f"{self._path}: {lost} of {given} pictures cannot be decoded; the ones before "
                "stand in"
            )
        end = frames.reached
        stated = self._stated
        if stated is None or not self._is_truncated(end):
            self._duration, self.expected = end, self.clips
            return
        self._duration = min(stated, self.clips * self._clip_length)
        self.expected = num_clips(stated, self._clip_length)
        self.faults.append(
            f"{self._path}: truncated: the pictures end at {end:.1f} s of {stated:.1f} s; "
            f"{self.clips} of {self.expected} clips are used"
        )

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """`[H, W, 3]`, turned and mirrored as the file asks for."""
        pixels = frame.to_ndarray(format="rgb24", width=self.info.width, height=self.info.height)
        # Asking a frame for its side data ties it into a cycle, so that its memory waits for the
        # garbage collector: only where the rotation, which costs nothing, is another one.
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        return _display(pixels, self._matrix)


@dataclass(frozen=True)
class Measured:
    """How long a video is.

    Args:
        duration: seconds to the end of its frames, in milliseconds' steps.
        info: what its header says.
        faults: what is wrong with the file, a line each.
    """

    duration: float
    info: VideoInfo
    faults: tuple[str, ...]


def measure(path: str | Path, clip_length: float = 2.0) -> Measured:
    """The length of a video's frames, from its packets and its last pictures; no more is decoded.

    Args:
        clip_length: seconds; of a truncated file whole clips of it count, as in extraction.

    Raises:
        InputError: as `ClipReader` does.
    """
    for length in (LONGER_THAN_ANY, clip_length):
        reader = ClipReader(path, length)
        for _ in reader:
            pass
        if not reader.faults:
            break
    return Measured(round(reader.duration, 3), reader.info, tuple(reader.faults))


def thumbnails(path: str | Path, spacing: float, height: int) -> Iterator[np.ndarray]:
    """Small pictures `[height, w, 3]`, uint8, from the middle of every `spacing` seconds."""
    for batch in ClipReader(path, spacing):
        for frame in batch:
            yield _resized(frame, height)


def frame_at(path: str | Path, second: float, height: int) -> np.ndarray:
    """The frame shown at `second`, or the last one before, as a picture `[height, w, 3]`, uint8.

    Decodes from the key frame before it on.

    Raises:
        InputError: the file is no video, or no frame of it can be decoded there.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        time = second + (file_start(container) or 0.0)
        try:
            container.seek(max(round(time * av.time_base), 0))
            frame = None
            for later in container.decode(stream):
                if frame is not None and later.time is not None and later.time > time:
                    break
                frame = later
        except (FFmpegError, OSError) as error:
            raise InputError(f"{path}: no frame at {second:g} s ({error})") from None
        if frame is None:
            raise InputError(f"{path}: no frame at {second:g} s")
        return _resized(displayed(frame), height)


def displayed(frame: av.VideoFrame) -> np.ndarray:
    """A frame's pixels `[H, W, 3]`, uint8, turned and mirrored as its file asks for."""
    return _display(frame.to_ndarray(format="rgb24"), _display_matrix(frame))


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The first five numbers of the frame's display matrix, None if it has none."""
    side_data = cast(SideDataContainer, frame.side_data)  # PyAV's stub takes it for a dict of str
    matrix = side_data.get(SideData.DISPLAYMATRIX)
    return None if matrix is None else np.frombuffer(matrix, np.int32)[:5].astype(float)


def _display(pixels: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Pixels `[H, W, 3]` as a display matrix has them shown, in whole quarter turns.

    The matrix takes a pixel (x, y) to (a x + c y, b x + d y).
    """
    if matrix is None:
        return pixels
    a, b, _, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _resized(pixels: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(pixels.shape[1] * height / pixels.shape[0]))
    return np.asarray(Image.fromarray(pixels).resize((width, height)))
