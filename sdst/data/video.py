"""Video files as frames: what a file holds, one frame per moment asked for, in constant memory.

Two decoders share the work: decord (where it has a wheel) jumps from key frame to key frame, PyAV
reads straight through. Both give the same pixels. Times count in seconds from the first picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import numpy as np
from PIL import Image

from sdst.errors import InputError

try:
    import decord

    decord.logging.set_level(decord.logging.QUIET)
except ImportError:  # no wheel for this platform
    decord = None

# Frames wanted at least this far apart are worth jumping for. Measured on H.264, 640x360, 30 fps, a
# key frame every 1, 2 or 8 s: CPU seconds per minute of video, decord against PyAV, were 1.8 : 1.2,
# 1.1 : 1.1, 1.3 : 1.0 for a frame every second, and 0.3 : 1.4, 0.5 : 1.0, 0.8 : 0.9 for every 2 s.
JUMP_SECONDS = 2.0

BATCH_FRAMES = 64
BATCH_BYTES = 64 * 2**20

# A video whose pictures end this long before its stated duration is taken for a truncated one.
MISSING_SECONDS = 2.0
MISSING_SHARE = 0.1


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video file says.

    Args:
        duration: seconds of picture.
        fps: average frames per second.
        width: pixels, as stored (before any rotation the file asks for).
        height: pixels, as stored.
        num_frames: stated by the file, or estimated as duration x fps.
    """

    duration: float
    fps: float
    width: int
    height: int
    num_frames: int


def num_clips(duration: float, clip_length: float) -> int:
    """Clips of `clip_length` seconds in a video of `duration` seconds.

    Rounded to the nearest (half up) and at least 1: a remainder shorter than half a clip belongs to
    nobody, a longer one is a clip of its own.
    """
    return max(1, math.floor(duration / clip_length + 0.5))


def clip_times(duration: float, clip_length: float, frames_per_clip: int = 1) -> np.ndarray:
    """Seconds at which clips are sampled, the centres of equal parts: `[L * frames_per_clip]`."""
    count = num_clips(duration, clip_length) * frames_per_clip
    return (np.arange(count) + 0.5) * (clip_length / frames_per_clip)


def probe(path: str | Path) -> VideoInfo:
    """Read the header of a video file.

    Raises:
        InputError: the file is missing, is no video, has no video stream or has no length.
    """
    with _open(path) as container:
        stream = _video_stream(container, path)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = _duration(container, stream, rate)
        if duration <= 0:
            raise InputError(f"{path}: the video has zero length; expected at least one frame")
        return VideoInfo(
            duration=duration,
            fps=rate,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            num_frames=stream.frames or round(duration * rate),
        )


class ClipReader(Iterator[np.ndarray]):
    """Frames of a video, `frames_per_clip` of every clip, in batches of whole clips.

    Frames are picked by time, at the centres of `frames_per_clip` equal parts of each clip, so
    variable frame rates need no care; a clip that reaches beyond the last frame repeats it. Of a
    damaged file the frames that decode are given: a picture that does not is stood in for by the
    one before, and clips end where the pictures do.

    Args:
        path: a video file.
        clip_length: seconds.
        frames_per_clip: at least 1.

    Attributes:
        info: what the header says.
        wanted: clips that the video should have, `num_clips` of its duration.
        clips: how many were given so far.
        faults: what is wrong with the file, a line each, as far as it was read.

    Yields:
        RGB frames in order, uint8 `[T, H, W, 3]`, at the size stored in the file; T is a multiple
        of `frames_per_clip`.

    Raises:
        InputError: see `probe`; also a file that nothing can be decoded from.
    """

    def __init__(self, path: str | Path, clip_length: float, frames_per_clip: int = 1) -> None:
        if clip_length <= 0 or frames_per_clip < 1:
            raise InputError(
                f"clip_length {clip_length} s, frames_per_clip {frames_per_clip}: "
                "expected a positive length and at least one frame"
            )
        self.info = probe(path)
        self.clips = 0
        self.faults: list[str] = []
        self._clip_length, self._frames_per_clip = clip_length, frames_per_clip
        times = clip_times(self.info.duration, clip_length, frames_per_clip)
        self.wanted = len(times) // frames_per_clip
        clip_bytes = 3 * self.info.width * self.info.height * frames_per_clip
        clips = max(1, min(BATCH_FRAMES // frames_per_clip, BATCH_BYTES // clip_bytes))
        sampler = _Sampler(path, self.info, times, frames_per_clip, self.faults)
        self._batches = sampler.batches(clips * frames_per_clip)

    def __next__(self) -> np.ndarray:
        batch = next(self._batches)
        self.clips += len(batch) // self._frames_per_clip
        return batch

    @property
    def duration(self) -> float:
        """Seconds of what was given: the stated duration, or less where the file is truncated."""
        if self.clips == self.wanted:
            return self.info.duration
        return min(self.info.duration, self.clips * self._clip_length)


def thumbnails(path: str | Path, times: Sequence[float], height: int) -> list[np.ndarray]:
    """Small pictures of a video at ascending `times` (s), uint8 `[height, w, 3]` each.

    Where its pictures end early, the last one stands in for the rest.
    """
    pictures = []
    sampler = _Sampler(path, probe(path), np.asarray(times, float), 1, [])
    for batch in sampler.batches(8):
        for frame in batch:
            width = max(1, round(frame.shape[1] * height / frame.shape[0]))
            pictures.append(np.asarray(Image.fromarray(frame).resize((width, height))))
    return pictures + pictures[-1:] * (len(times) - len(pictures))


@dataclass
class _Sampler:
    """Gives the frames shown at ascending `times`, and notes in `faults` what is wrong.

    Args:
        together: frames of a clip; where the pictures end early, a begun clip is completed.
    """

    path: str | Path
    info: VideoInfo
    times: np.ndarray
    together: int
    faults: list[str]

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """uint8 `[<=size, H, W, 3]` at a time."""
        done = 0
        if decord is not None and np.diff(self.times).min(initial=np.inf) >= JUMP_SECONDS:
            try:
                for frames in _decode_decord(self, size):
                    yield frames
                    done += len(frames)
                return
            except (decord.DECORDError, RuntimeError):
                pass  # PyAV carries on where decord gave up, or tells what is wrong
        yield from _decode_pyav(self, done, size)

    def there(self, decoded: float) -> int:
        """How many of `times` can be shown when the pictures end at `decoded` seconds.

        The last picture is held to the end of the video, unless so much is missing that the file
        must be truncated.
        """
        missing = self.info.duration - decoded
        if missing <= max(MISSING_SECONDS, MISSING_SHARE * self.info.duration):
            return len(self.times)
        shown = int(np.searchsorted(self.times, decoded))
        shown = max(1, -(-shown // self.together)) * self.together
        self.faults.append(
            f"{self.path}: truncated: the pictures end at {decoded:.1f} s of "
            f"{self.info.duration:.1f} s; {shown // self.together} of "
            f"{len(self.times) // self.together} clips are used"
        )
        return shown


def _decode_decord(sampler: _Sampler, batch: int) -> Iterator[np.ndarray]:
    # One thread: videos are decoded beside each other, and beside the encoder.
    reader = decord.VideoReader(str(sampler.path), num_threads=1)
    spans = reader.get_frame_timestamp(range(len(reader)))  # [frames, (start, end)] in seconds
    spans = spans - spans[0, 0]
    times = sampler.times[: sampler.there(decoded=spans[-1, 1])]
    indices = np.searchsorted(spans[:, 0], times, side="right") - 1
    for first in range(0, len(indices), batch):
        yield reader.get_batch(indices[first : first + batch]).asnumpy()


def _decode_pyav(sampler: _Sampler, done: int, batch: int) -> Iterator[np.ndarray]:
    """The frames at the times behind the first `done`."""
    with _open(sampler.path) as container:
        stream = _video_stream(container, sampler.path)
        stream.codec_context.thread_count = 1
        frames = _timed_frames(container, stream, sampler)
        shown = _shown_at(sampler, done, frames)
        while pictures := [_to_rgb(frame, sampler.info) for frame in islice(shown, batch)]:
            yield np.stack(pictures)


def _shown_at(
    sampler: _Sampler, done: int, frames: Iterator[tuple[float, av.VideoFrame]]
) -> Iterator[av.VideoFrame]:
    """For each of the times behind the first `done`, the last frame that starts no later."""
    start, current = next(frames, (0.0, None))
    if current is None:
        raise InputError(
            f"{sampler.path}: no frame can be decoded; the file is corrupt, re-encode it"
        )
    upcoming = next(frames, None)
    end = len(sampler.times)
    for number in range(done, end):
        while upcoming is not None and upcoming[0] <= sampler.times[number]:
            start, current = upcoming
            upcoming = next(frames, None)
            if upcoming is None:
                held = float((current.duration or 0) * (current.time_base or 0))
                end = sampler.there(decoded=start + held)
        if number >= end:
            return
        yield current


def _timed_frames(
    container: av.container.InputContainer, stream: av.VideoStream, sampler: _Sampler
) -> Iterator[tuple[float, av.VideoFrame]]:
    """Decoded frames and their start, in seconds after the first; broken packets are skipped."""
    first = None
    count = broken = 0
    for packet in _packets(container, stream):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            broken += 1
            continue
        for frame in frames:
            time = frame.time if frame.time is not None else count / max(sampler.info.fps, 1.0)
            first = time if first is None else first
            count += 1
            yield time - first, frame
    if broken:
        sampler.faults.append(
            f"{sampler.path}: {broken} of {broken + count} pictures cannot be decoded; the ones "
            "before stand in"
        )


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream, as far as the file can be read."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return


def _to_rgb(frame: av.VideoFrame, info: VideoInfo) -> np.ndarray:
    """`[H, W, 3]`, turned as the file asks for."""
    pixels = frame.to_ndarray(format="rgb24", width=info.width, height=info.height)
    return np.rot90(pixels, frame.rotation // 90)


def _open(path: str | Path) -> av.container.InputContainer:
    if not Path(path).is_file():
        raise InputError(f"{path}: no such video file")
    if Path(path).stat().st_size == 0:
        raise InputError(f"{path}: the file is empty (0 bytes); expected a video")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable video: {reason}") from None
    if container.format.name.endswith("_pipe"):
        container.close()
        raise InputError(f"{path}: a still picture; expected a video")
    return container


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise InputError(f"{path}: no video stream (streams found: {kinds}); expected a video")
    return streams[0]


def _duration(container: av.container.InputContainer, stream: av.VideoStream, fps: float) -> float:
    """Seconds of picture: as the stream states, else the file, else counted packet by packet."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    starts, ends, count = [], [], 0
    for packet in _packets(container, stream):
        count += bool(packet.size)
        if packet.pts is not None:
            starts.append(packet.pts)
            ends.append(packet.pts + (packet.duration or 0))
    if ends:
        return float((max(ends) - min(starts)) * stream.time_base)
    return count / fps if fps else 0.0
