"""Video files as frames: what a file holds, one frame per moment asked for, in constant memory.

Times count in seconds from the first picture. What can be decoded of a damaged file is used, and
the rest is told in words.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from PIL import Image

from sdst.errors import InputError

BATCH_FRAMES = 64
BATCH_BYTES = 64 * 2**20

# Pictures that end this much before the stated duration are no fault: sound may be a little longer,
# and the last picture stands still meanwhile.
MISSING_SECONDS = 2.0


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


def clip_times(clip: int, clip_length: float, frames_per_clip: int = 1) -> np.ndarray:
    """Seconds at which a clip is sampled, the centres of equal parts of it: `[frames_per_clip]`."""
    return (clip + (np.arange(frames_per_clip) + 0.5) / frames_per_clip) * clip_length


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
    one before, and clips end where the pictures do, the last one begun being completed.

    Pixels are those that the file stores, turned the way it asks for. They are not stretched where
    it asks for other than square ones (no more than in frames that ffmpeg writes as pictures), and
    alpha is left out.

    Args:
        path: a video file.
        clip_length: seconds.
        frames_per_clip: at least 1.

    Attributes:
        info: what the header says.
        wanted: clips that the video should have, `num_clips` of its duration.
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

    def __init__(self, path: str | Path, clip_length: float, frames_per_clip: int = 1):
        if clip_length <= 0 or frames_per_clip < 1:
            raise InputError(
                f"clip_length {clip_length} s, frames_per_clip {frames_per_clip}: "
                "expected a positive length and at least one frame"
            )
        self.info = probe(path)
        self.wanted = num_clips(self.info.duration, clip_length)
        self.clips = 0
        self.most_frames = min(
            BATCH_FRAMES, BATCH_BYTES // (3 * self.info.width * self.info.height)
        )
        self.batch_frames = self.most_frames
        self.faults: list[str] = []
        self._path, self._version = path, _version(path)
        self._clip_length, self._frames_per_clip = clip_length, frames_per_clip
        self._batches = self._read()

    @property
    def duration(self) -> float:
        """Seconds of what was given: the stated duration, or less where the file is truncated."""
        if self.clips == self.wanted:
            return self.info.duration
        return min(self.info.duration, self.clips * self._clip_length)

    def __next__(self) -> np.ndarray:
        batch = next(self._batches)
        self.clips += len(batch) // self._frames_per_clip
        return batch

    def _read(self) -> Iterator[np.ndarray]:
        try:
            yield from self._decode(jump=True)
        except _JumpError:
            yield from self._decode(jump=False)

    def _decode(self, jump: bool) -> Iterator[np.ndarray]:
        """The batches from clip `self.clips` on."""
        size = max(1, min(self.batch_frames, self.most_frames) // self._frames_per_clip)
        batch: list[np.ndarray] = []
        with _open(self._path) as container:
            if _version(self._path) != self._version:
                raise InputError(f"{self._path}: changed while it was read; try again")
            pictures = _Pictures(container, self._path, self.info.fps, jump)
            for clip in range(self.clips, self.wanted):
                times = clip_times(clip, self._clip_length, self._frames_per_clip)
                frames = [pictures.at(time) for time in times]
                if clip and self._truncated_at(pictures.end) <= times[0]:
                    break
                batch += map(self._to_rgb, frames)
                if len(batch) == size * self._frames_per_clip:
                    full = np.stack(batch)
                    batch.clear()  # while the batch is worked on, memory holds it once
                    yield full
                    del full
            if batch:
                yield np.stack(batch)
            self._judge(pictures)

    def _truncated_at(self, end: float | None) -> float:
        """Where the pictures stop short of the duration, if they end at `end` (s; None: unseen)."""
        enough = end is None or self.info.duration - end <= MISSING_SECONDS
        return math.inf if enough else end

    def _judge(self, pictures: _Pictures) -> None:
        lost, given = pictures.losses()
        if lost:
            self.faults.append(
                f"{self._path}: {lost} of {given} pictures cannot be decoded; the ones before "
                "stand in"
            )
        end = self._truncated_at(pictures.end)
        if end < math.inf:
            self.faults.append(
                f"{self._path}: truncated: the pictures end at {end:.1f} s of "
                f"{self.info.duration:.1f} s; {self.clips} of {self.wanted} clips are used"
            )

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """`[H, W, 3]`, turned as the file asks for."""
        pixels = frame.to_ndarray(format="rgb24", width=self.info.width, height=self.info.height)
        return np.rot90(pixels, frame.rotation // 90)


def thumbnails(path: str | Path, spacing: float, height: int) -> Iterator[np.ndarray]:
    """Small pictures `[height, w, 3]`, uint8, from the middle of every `spacing` seconds."""
    for batch in ClipReader(path, spacing):
        for frame in batch:
            width = max(1, round(frame.shape[1] * height / frame.shape[0]))
            yield np.asarray(Image.fromarray(frame).resize((width, height)))


class _JumpError(Exception):
    """The file did not go on where a jump landed."""


class _Pictures:
    """The pictures of a file by their time, asked for in ascending order.

    A group of pictures that no time falls into is read but not decoded, nor is a picture of another
    group that neither a time nor another picture needs. Reading straight on rather than seeking
    needs no index, which broken files lack; decoding is most of the work.

    Args:
        container: an open file; `path` is its name.
        fps: frames per second, for pictures whose length the file does not say.
        jump: leave groups and pictures out. `_JumpError` tells that the file cannot be decoded
            from where it claims to, then it has to be read again without.
    """

    def __init__(
        self, container: av.container.InputContainer, path: str | Path, fps: float, jump: bool
    ):
        stream = _video_stream(container, path)
        self._codec = stream.codec_context
        self._codec.thread_count = 1  # videos are decoded beside each other, and beside the encoder
        self._packets = _packets(container, stream)
        self._ahead: deque[av.Packet] = deque()  # read, not decoded
        self._frames: deque[av.VideoFrame] = deque()  # decoded, not asked for
        self._tick = stream.time_base
        self._frame_ticks = 1 / (fps * float(self._tick)) if fps else 0.0
        self._jump, self._landed = jump, -math.inf
        self._needed = -math.inf  # start of the next picture that is asked for, if it is known
        self._unneeded: set[int] = set()  # starts of pictures that the decoder may have left out
        self._first = math.inf  # start of the first picture, be it one that cannot be decoded
        self._given = self._failed = self._good = 0
        self._last_end = 0.0
        self._over = False
        self._current = self._next_frame()
        if self._current is None:
            raise InputError(f"{path}: no frame can be decoded; the file is corrupt, re-encode it")
        self._zero = min(self._current.pts, self._first)
        self._upcoming = self._next_frame()

    @property
    def end(self) -> float | None:
        """Seconds at which the last picture ends; None before that one is decoded."""
        return float((self._last_end - self._zero) * self._tick) if self._over else None

    def at(self, time: float) -> av.VideoFrame:
        """The last picture that starts no later than `time` (s); the first, if none does."""
        limit = self._zero + math.floor(time / self._tick + 1e-6)
        if self._jump and self._upcoming is not None and self._upcoming.pts <= limit:
            self._jump_towards(limit)
        while self._upcoming is not None and self._upcoming.pts <= limit:
            self._current, self._upcoming = self._upcoming, self._next_frame()
        return self._current

    def losses(self) -> tuple[int, int]:
        """Pictures that came out damaged or not at all, and how many were given to the decoder."""
        if not self._over:
            self._decode(None)
        # The HEVC decoder drops pictures that refer to lost ones without a word. Elsewhere a packet
        # without a picture is no fault by itself: it may hold a field, or a VP8 reference.
        silent = self._failed or self._codec.name == "hevc"
        return max(self._failed, self._given - self._good if silent else 0), self._given

    def _jump_towards(self, limit: int) -> None:
        """Drop what comes before the last key picture that starts no later than `limit` (ticks).

        On the way it is seen which picture will be the last that starts no later.
        """
        self._unneeded.clear()  # what is needed now comes after all of them
        key, scanned = None, []
        ahead = iter(self._ahead)
        for packet in chain(ahead, self._packets):
            starts_group = packet.is_keyframe and not packet.is_discard
            if packet.pts is not None and starts_group and packet.pts <= limit:
                key, scanned = packet, []
            scanned.append(packet)
            if packet.pts is not None and packet.pts <= limit and not packet.is_discard:
                self._needed = max(self._needed, packet.pts)
            if packet.pts is None or (starts_group and packet.pts > limit):
                break
            if packet.dts is not None and packet.dts > limit:
                break
        self._ahead = deque([*scanned, *ahead])
        if key is None:
            return
        self._decode(None)
        self._codec.flush_buffers()
        self._frames.clear()
        self._landed = key.pts
        self._upcoming = self._next_frame()
        if self._upcoming is None or self._upcoming.pts != key.pts:
            raise _JumpError

    def _next_frame(self) -> av.VideoFrame | None:
        while not self._frames and not self._over:
            packet = self._ahead.popleft() if self._ahead else next(self._packets, None)
            self._decode(packet)
            self._over = packet is None
        return self._frames.popleft() if self._frames else None

    def _decode(self, packet: av.Packet | None) -> None:
        """Give the decoder a packet; None for what it still holds back."""
        if packet is not None:
            if packet.pts is not None and packet.pts < self._landed:
                return  # shown before the key picture, and may need one that was left out
            # Of a damaged file every picture may be wanted to stand in.
            skip = packet.pts is not None and packet.pts < self._needed and not self._failed
            self._codec.skip_frame = "NONREF" if skip else "DEFAULT"
            if skip:
                self._unneeded.add(packet.pts)
            elif not packet.is_discard:
                self._given += 1
                self._first = min(self._first, self._first if packet.pts is None else packet.pts)
        try:
            frames = self._codec.decode(packet)
        except av.error.FFmpegError:
            self._failed += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self._failed += 1
                continue
            if frame.pts is None:
                frame.pts = round(self._last_end)
            self._last_end = frame.pts + (frame.duration or self._frame_ticks)
            self._good += frame.pts not in self._unneeded
            self._frames.append(frame)


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """The packets of a stream, as far as the file can be read."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except av.error.FFmpegError:
        return


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        if Path(path).is_dir():
            raise InputError(f"{path}: a folder; expected a video file")
        if not Path(path).is_file():
            raise InputError(f"{path}: no such video file")
        if Path(path).stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes); expected a video")
        container = av.open(f"file:{path}")  # or a colon in the name would end a protocol
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: not a readable video: {reason}") from None
    if container.format.name.endswith("_pipe"):
        container.close()
        raise InputError(f"{path}: a still picture; expected a video")
    return container


def _version(path: str | Path) -> tuple[int, int, int]:
    """Differs once another file has taken the name, or the file was written to."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path}: not a readable video: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise InputError(f"{path}: no video stream (streams found: {kinds}); expected a video")
    codec = streams[0].codec_context
    if codec is None or not codec.width * codec.height:
        raise InputError(
            f"{path}: the video stream has no known codec or no size; re-encode it, to H.264 say"
        )
    return streams[0]


def _duration(container: av.container.InputContainer, stream: av.VideoStream, fps: float) -> float:
    """Seconds of picture: as the stream states, else the file, else counted packet by packet."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        # Matroska states when a file ends, the other formats how long it is.
        begin = 0 if "matroska" in container.format.name else container.start_time or 0
        late = float((stream.start_time or 0) * stream.time_base) - begin / av.time_base
        return container.duration / av.time_base - max(late, 0.0)
    starts, ends, count = [], [], 0
    for packet in _packets(container, stream):
        count += bool(packet.size)
        if packet.pts is not None:
            starts.append(packet.pts)
            ends.append(packet.pts + (packet.duration or 0))
    span = float((max(ends) - min(starts)) * stream.time_base) if ends else 0.0
    return span or (count / fps if fps else 0.0)
