"""Video files as frames: what a file holds, one frame per moment asked for, in constant memory.

Times count in seconds from the start of the file, the earlier of its sound and its frames, as
players, `ffmpeg -ss` and annotators count them. A video is as long as its frames go; what headers
say of lengths is an estimate. What can be decoded of a damaged file is used, and the rest is
reported.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.format import Flags as FormatFlags
from av.sidedata.sidedata import Type as SideData
from PIL import Image

from sdst.errors import InputError

STILLS = sorted(name for name in av.formats_available if name.endswith("_pipe"))
BATCH_FRAMES = 64
BATCH_BYTES = 64 * 2**20

# Frames that end this much before where the file says they do are no fault.
MISSING_SECONDS = 2.0

# Containers of video. What else FFmpeg opens leads elsewhere: playlists, lists of files, numbered
# pictures, text that is drawn.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,asf_o,ogg,gif,mxf,rm,nut,ivf,"
    "h264,hevc,vvc,m4v,av1,obu,h263,vc1,mjpeg,dv,gxf,wtv,nsv,nuv,amv,swf,apng,yuv4mpegpipe"
)
# Those whose tracks, or at least the file, state a length that was known when it was written.
TRACKS_STATE_LENGTHS = ("mov", "avi")
FILES_STATE_LENGTHS = ("matroska", "flv", "asf", "rm")

# Clocks that leap further than this (s) are set anew, as ffmpeg takes them.
GREATEST_GAP = 10.0
ROUNDING = 1e-6  # s, of times that are sums and products
SMALLEST_JUMP_BACK = {True: 0.1, False: 1.0}  # by whether the format allows for such clocks


@dataclass(frozen=True)
class VideoInfo:
    """What the header of a video file says.

    Args:
        duration: seconds from the start of the file to the end of the frames; an estimate.
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
        duration = _estimate_end(container, stream, rate)
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
    variable frame rates need no care; a clip that reaches beyond the last frame repeats it, and one
    before the first frame shows that. Clips end where the frames do. Of a damaged file the frames
    that decode are given: one that does not is stood in for by the one before, and of a truncated
    file the last clip begun is completed. A clock that jumps back, or leaps, runs on.

    Pixels are those that the file stores, turned and mirrored the way it asks for. They are not
    stretched where it asks for other than square ones (no more than in frames that ffmpeg writes as
    pictures), and alpha is left out.

    Args:
        path: a video file.
        clip_length: seconds.
        frames_per_clip: at least 1.

    Attributes:
        info: what the header says.
        wanted: clips that the video should have, `num_clips` of its estimated duration; once all
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
        self._duration = self.info.duration
        self._path, self._version = path, _version(path)
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
        except _JumpError:
            yield from self._decode(jump=False)

    def _decode(self, jump: bool) -> Iterator[np.ndarray]:
        """The batches from clip `self.clips` on."""
        size = max(1, min(self.batch_frames, self.most_frames) // self._frames_per_clip)
        batch: list[np.ndarray] = []
        with _open(self._path) as container:
            if _version(self._path) != self._version:
                raise InputError(f"{self._path}: changed while it was read; try again")
            self._stated, self._all_tracks = _stated_end(container, self._path)
            frames = _Frames(container, self._path, self.info.fps, jump)
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
            self._judge(frames)

    def _has_clip(self, clip: int, frames: _Frames) -> bool:
        """Whether the frames reach the middle of a clip; of a truncated file, its first frame."""
        middle = (clip + 0.5) * self._clip_length
        if clip == 0 or frames.go_beyond(middle):
            return True
        if self._is_truncated(frames.reached):
            first = clip_times(clip, self._clip_length, self._frames_per_clip)[0]
            return first < frames.reached - ROUNDING
        return frames.reached >= middle - ROUNDING

    def _is_truncated(self, end: float) -> bool:
        """Whether the file states that it goes on after its frames, which end at `end` (s)."""
        if self._stated is None or self._stated - end <= MISSING_SECONDS:
            return False
        if self._whole is None:
            self._whole = self._all_tracks and self._stated - self._last_end() <= MISSING_SECONDS
        return not self._whole

    def _last_end(self) -> float:
        """Seconds at which the last packet of sound or frames ends."""
        try:
            with _open(self._path) as container:
                return _last_end(container)
        except InputError:  # gone since it was opened: what it states stands
            return -math.inf

    def _judge(self, frames: _Frames) -> None:
        lost, given = frames.losses()
        if lost:
            self.faults.append(
                f"{self._path}: {lost} of {given} pictures cannot be decoded; the ones before "
                "stand in"
            )
        end = frames.reached
        if not self._is_truncated(end):
            self._duration, self.wanted = end, self.clips
            return
        self._duration = min(self._stated, self.clips * self._clip_length)
        self.wanted = num_clips(self._stated, self._clip_length)
        self.faults.append(
            f"{self._path}: truncated: the pictures end at {end:.1f} s of {self._stated:.1f} s; "
            f"{self.clips} of {self.wanted} clips are used"
        )

    def _to_rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """`[H, W, 3]`, turned and mirrored as the file asks for."""
        pixels = frame.to_ndarray(format="rgb24", width=self.info.width, height=self.info.height)
        # Asking a frame for its side data ties it into a cycle, so that its memory waits for the
        # garbage collector: only where the rotation, which costs nothing, is another one.
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        return _display(pixels, self._matrix)


def thumbnails(path: str | Path, spacing: float, height: int) -> Iterator[np.ndarray]:
    """Small pictures `[height, w, 3]`, uint8, from the middle of every `spacing` seconds."""
    for batch in ClipReader(path, spacing):
        for frame in batch:
            width = max(1, round(frame.shape[1] * height / frame.shape[0]))
            yield np.asarray(Image.fromarray(frame).resize((width, height)))


def _display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """The first five numbers of the frame's display matrix, None if it has none."""
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
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


class _JumpError(Exception):
    """The file did not go on where a jump landed."""


class _Frames:
    """The frames of a file by their time, asked for in ascending order.

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
        self._packets = _Clock(container, stream)
        self._ahead: deque[av.Packet] = deque()  # read, not decoded
        self._frames: deque[av.VideoFrame] = deque()  # decoded, not asked for
        self._tick = stream.time_base
        self._frame_ticks = 1 / (fps * float(self._tick)) if fps else 0.0
        self._jump, self._landed = jump, -math.inf
        self._needed = -math.inf  # start of the next picture that is asked for, if it is known
        self._unneeded: set[int] = set()  # starts of pictures that the decoder may have left out
        self._seen = -math.inf  # where the last frame read so far ends, decoded or not
        self._pts_faults = self._dts_faults = 0
        self._last_pts = self._last_dts = -math.inf
        self._given = self._failed = self._good = 0
        self._last_end = -math.inf
        self._over = False
        self._current = self._next_frame()
        if self._current is None:
            raise InputError(f"{path}: no frame can be decoded; the file is corrupt, re-encode it")
        start = _start(container)
        self._zero = self._current.pts if start is None else start / self._tick
        self._upcoming = self._next_frame()

    @property
    def end(self) -> float | None:
        """Seconds at which the last frame ends; None before that one is decoded."""
        return float((self._last_end - self._zero) * self._tick) if self._over else None

    @property
    def reached(self) -> float:
        """Seconds at which the last frame ends, or the last one read so far."""
        return float((self._seen - self._zero) * self._tick) if self.end is None else self.end

    def go_beyond(self, time: float) -> bool:
        """Whether the frames go on after `time` (s); reads packets until it is known."""
        while not self._over and self.reached <= time + ROUNDING:
            packet = next(self._read_on(), None)
            if packet is None:
                break
            self._ahead.append(packet)
        return self.reached > time + ROUNDING

    def at(self, time: float) -> av.VideoFrame:
        """The last picture that starts no later than `time` (s); the first, if none does."""
        limit = math.floor(self._zero + time / self._tick + 1e-6)
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

    def _start_of(self, frame: av.VideoFrame) -> int:
        """When a frame starts (ticks): its own time, unless those have been less in order than the
        decoder's, as in formats that store no times. As ffmpeg guesses it."""
        if frame.pts is not None:
            self._pts_faults += frame.pts <= self._last_pts
            self._last_pts = frame.pts
        if frame.dts is not None:
            self._dts_faults += frame.dts <= self._last_dts
            self._last_dts = frame.dts
        if frame.pts is not None and self._pts_faults <= self._dts_faults:
            return frame.pts
        if frame.dts is not None:
            return frame.dts
        return round(self._last_end) if math.isfinite(self._last_end) else frame.pts or 0

    def _jump_towards(self, limit: int) -> None:
        """Drop what comes before the last key picture that starts no later than `limit` (ticks).

        On the way it is seen which picture will be the last that starts no later.
        """
        self._unneeded.clear()  # what is needed now comes after all of them
        key, scanned = None, []
        ahead = iter(self._ahead)
        for packet in chain(ahead, self._read_on()):
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
        self._last_pts = self._last_dts = -math.inf
        self._landed = key.pts
        self._upcoming = self._next_frame()
        if self._upcoming is None or self._upcoming.pts != key.pts:
            raise _JumpError

    def _read_on(self) -> Iterator[av.Packet]:
        """Packets that were not read before."""
        while (packet := self._packets.read()) is not None:
            self._see(packet)
            yield packet

    def _see(self, packet: av.Packet) -> None:
        if packet.pts is not None and not packet.is_discard:
            self._seen = max(self._seen, packet.pts + (packet.duration or self._frame_ticks))

    def _next_frame(self) -> av.VideoFrame | None:
        while not self._frames and not self._over:
            packet = self._ahead.popleft() if self._ahead else next(self._read_on(), None)
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
        try:
            frames = self._codec.decode(packet)
        except av.error.FFmpegError:
            self._failed += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self._failed += 1
                continue
            frame.pts = self._start_of(frame)
            end = frame.pts + (frame.duration or self._frame_ticks)
            self._last_end = max(self._last_end, end)
            self._good += frame.pts not in self._unneeded
            self._frames.append(frame)


class _Clock:
    """The packets of a stream on one clock that runs on, as far as the file can be read.

    Joined files begin their clocks again, a clock of 33 bits wraps after 26 hours, and transmitters
    set theirs anew. Like ffmpeg, what comes after such a jump follows what came before; other gaps
    are time in which the last frame stands still.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self._demuxed = container.demux(stream)
        self._leaps = bool(container.format.flags & FormatFlags.ts_discont.value)
        second = float(1 / stream.time_base)
        self._gap = GREATEST_GAP * second if self._leaps else math.inf
        self._back = SMALLEST_JUMP_BACK[self._leaps] * second
        rate = float(stream.average_rate or 0)
        self._frame = second / rate if rate else 0.0
        self._shift = 0
        self._last = self._next = None  # decoding time of the last packet, and of the one after it

    def read(self) -> av.Packet | None:
        """The next packet; None after the last."""
        try:
            packet = next((packet for packet in self._demuxed if packet.size), None)
        except av.error.FFmpegError:
            return None
        if packet is not None and packet.dts is not None:
            self._follow(packet)
        if packet is not None and self._shift:
            packet.dts = None if packet.dts is None else packet.dts + self._shift
            packet.pts = None if packet.pts is None else packet.pts + self._shift
        return packet

    def _follow(self, packet: av.Packet) -> None:
        """Change the shift where the clock jumps."""
        time = packet.dts + self._shift
        if self._next is not None and (
            abs(time - self._next) > self._gap or time + self._back < self._last
        ):
            self._shift += round(self._next - time)
            time = packet.dts + self._shift
        self._last, self._next = time, time + (packet.duration or self._frame)


def _open(path: str | Path) -> av.container.InputContainer:
    try:
        if Path(path).is_dir():
            raise InputError(f"{path}: a folder; expected a video file")
        if not Path(path).is_file():
            raise InputError(f"{path}: no such video file")
        if Path(path).stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes); expected a video")
        container = av.open(
            f"file:{path}",  # or a colon in the name would end a protocol
            options={
                "format_whitelist": ",".join((FORMATS, *STILLS)),
                "protocol_whitelist": "file",
            },
            metadata_errors="replace",
        )
    except av.error.ArgumentError:
        raise InputError(
            f"{path}: not a readable video: a playlist, text or another format; expected a file "
            "that itself holds frames (MP4, Matroska, AVI, MPEG, ...)"
        ) from None
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


def _start(container: av.container.InputContainer) -> float | None:
    """Seconds on the file's clock at which its sound or frames start, the earlier; None: unknown.

    Subtitles and covers do not count.
    """
    starts = [
        float(stream.start_time * stream.time_base)
        for stream in container.streams
        if stream.type in ("video", "audio")
        and stream.start_time is not None
        and not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if starts:
        return min(starts)
    return None if container.start_time is None else container.start_time / av.time_base


def _estimate_end(
    container: av.container.InputContainer, stream: av.VideoStream, fps: float
) -> float:
    """Seconds from the start of the file to the end of its frames: as the stream says, else the
    file, else counted packet by packet."""
    start = _start(container) or 0.0
    if stream.duration:
        first = stream.start_time * stream.time_base if stream.start_time is not None else start
        return float(first + stream.duration * stream.time_base) - start
    if container.duration:
        return _file_end(container)
    last, count = 0.0, 0
    packets = _Clock(container, stream)
    while (packet := packets.read()) is not None:
        count += 1
        if packet.pts is not None:
            last = max(
                last, float((packet.pts + (packet.duration or 0)) * stream.time_base) - start
            )
    return last or (count / fps if fps else 0.0)


def _stated_end(
    container: av.container.InputContainer, path: str | Path
) -> tuple[float | None, bool]:
    """Seconds from the start of the file to where it states that its frames end, None if it does
    not, and whether that is the end of the longest of all tracks."""
    format = container.format.name.split(",")[0]
    if format in TRACKS_STATE_LENGTHS:
        stream = _video_stream(container, path)
        return (_estimate_end(container, stream, 0.0) if stream.duration else None), False
    if format not in FILES_STATE_LENGTHS or not container.duration:
        return None, False
    return _file_end(container), True


def _file_end(container: av.container.InputContainer) -> float:
    """Seconds from the start of the file to its end, as the header says."""
    # Matroska states when a file ends, the other formats how long it is.
    late = (_start(container) or 0.0) if "matroska" in container.format.name else 0.0
    return container.duration / av.time_base - late


def _last_end(container: av.container.InputContainer) -> float:
    """Seconds from the start of the file to the end of the last packet of sound or frames."""
    last = -math.inf
    streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
    with suppress(av.error.FFmpegError):
        for packet in container.demux(streams):
            if packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last - (_start(container) or 0.0)
