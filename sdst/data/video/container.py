"""Containers of video: which are opened, what their headers say, where they start and end."""

from __future__ import annotations

import errno
import math
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.error import ExitError, FFmpegError
from av.stream import Disposition

from sdst.data.video.clock import Clock, seconds_per_tick
from sdst.data.video_files import is_url
from sdst.errors import InputError, disguise

STILLS = sorted(name for name in av.formats_available if name.endswith("_pipe"))

# Containers of video. What else FFmpeg opens leads elsewhere: playlists, lists of files, numbered
# pictures, text that is drawn.
FORMATS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,asf_o,ogg,gif,mxf,rm,nut,ivf,"
    "h264,hevc,vvc,m4v,av1,obu,h263,vc1,mjpeg,dv,gxf,wtv,nsv,nuv,amv,swf,apng,yuv4mpegpipe"
)

WEB = "http,https,tcp,tls,httpproxy"  # protocols, for what is asked for by its scheme
TIMEOUT = (20.0, 60.0)  # seconds, until a server opens, and for a read
# PyAV 19 reads tags of any bytes, and has no such argument.
BEFORE_19 = int(av.__version__.partition(".")[0]) < 19
METADATA: dict[str, Any] = {"metadata_errors": "replace"} if BEFORE_19 else {}

# Those whose tracks, or at least the file, state a length that was known when it was written.
TRACKS_STATE_LENGTHS = ("mov", "avi")
FILES_STATE_LENGTHS = ("matroska", "flv", "asf", "rm")


@dataclass(frozen=True)
class VideoInfo:
    """The header of a video file.

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


def probe_file(path: str | Path) -> VideoInfo:
    """Read the header of a video file.

    Raises:
        InputError: the file is missing, is no video, has no video stream or has no length.
    """
    with open_video(path) as container:
        stream = video_stream(container, path)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        duration = estimate_end(container, stream, rate)
        if duration <= 0:
            raise InputError(f"{path}: the video has zero length; expected at least one frame")
        return VideoInfo(
            duration=duration,
            fps=rate,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            num_frames=stream.frames or round(duration * rate),
        )


def open_video(path: str | Path) -> InputContainer:
    """The container of a file, or of what a URL leads to, without what leads elsewhere.

    Raises:
        InputError: it is missing, or holds no frames itself.
    """
    url = is_url(path)
    try:
        if url:
            _check_scheme(str(path))
        elif Path(path).is_dir():
            raise InputError(f"{path}: a folder; expected a video file")
        elif not Path(path).is_file():
            raise InputError(f"{path}: no such video file")
        elif Path(path).stat().st_size == 0:
            raise InputError(f"{path}: the file is empty (0 bytes); expected a video")
        container = av.open(
            str(path) if url else f"file:{path}",  # or a colon in the name would end a protocol
            # `options` would go to the streams, too: PyAV before 18 then crashes on files whose
            # streams appear late (FLV, MPEG-PS).
            container_options={
                "format_whitelist": ",".join((FORMATS, *STILLS)),
                "protocol_whitelist": WEB if url else "file",
            },
            **METADATA,
            timeout=TIMEOUT if url else None,
        )
    except (FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        if error.errno == errno.EINVAL:
            reason = (
                "a playlist, text or another format; expected a file that itself holds frames "
                "(MP4, Matroska, AVI, MPEG, ...)"
            )
        elif isinstance(error, ExitError):  # FFmpeg's word for its time being up
            reason = "the server does not answer"
        found = (None if url else disguise(path)) or f"not a readable video: {reason}"
        raise InputError(f"{path}: {found}") from None
    if container.format.name.endswith("_pipe"):
        container.close()
        raise InputError(f"{path}: a still picture; expected a video")
    return container


def _check_scheme(url: str) -> None:
    if url.partition("://")[0].lower() not in ("http", "https"):
        raise InputError(f"{url}: expected http:// or https://, or the name of a file")


def file_version(path: str | Path) -> tuple[int, int, int]:
    """Differs once another file has taken the name, or the file was written to."""
    try:
        found = Path(path).stat()
    except OSError as error:
        raise InputError(f"{path}: not a readable video: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def video_stream(container: InputContainer, path: str | Path) -> av.VideoStream:
    cover = Disposition.attached_pic
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


def file_start(container: InputContainer) -> float | None:
    """Seconds on the file's clock at which its sound or frames start, the earlier; None: unknown.

    Subtitles and covers do not count.
    """
    starts = [
        float(stream.start_time * seconds_per_tick(stream))
        for stream in container.streams
        if stream.type in ("video", "audio")
        and stream.start_time is not None
        and not stream.disposition & Disposition.attached_pic
    ]
    if starts:
        return min(starts)
    return None if container.start_time is None else container.start_time / av.time_base


def estimate_end(container: InputContainer, stream: av.VideoStream, fps: float) -> float:
    """Seconds from the start of the file to the end of its frames: as the stream says, else the
    file, else counted packet by packet."""
    start = file_start(container) or 0.0
    if stream.duration:
        tick = seconds_per_tick(stream)
        first = start if stream.start_time is None else stream.start_time * tick
        return float(first + stream.duration * tick) - start
    if container.duration:
        return _file_end(container, container.duration)
    last, count = 0.0, 0
    packets = Clock(container, stream)
    while (packet := packets.read()) is not None:
        count += 1
        if packet.pts is not None:
            end = (packet.pts + (packet.duration or 0)) * seconds_per_tick(stream)
            last = max(last, float(end) - start)
    return last or (count / fps if fps else 0.0)


def stated_end(container: InputContainer, path: str | Path) -> tuple[float | None, bool]:
    """Seconds from the start of the file to where it states that its frames end, None if it does
    not, and whether that is the end of the longest of all tracks."""
    format = container.format.name.split(",")[0]
    if format in TRACKS_STATE_LENGTHS:
        stream = video_stream(container, path)
        return (estimate_end(container, stream, 0.0) if stream.duration else None), False
    if format not in FILES_STATE_LENGTHS or not container.duration:
        return None, False
    return _file_end(container, container.duration), True


def _file_end(container: InputContainer, duration: int) -> float:
    """Seconds from the start of the file to its end, as the header says: its `duration`."""
    # Matroska states when a file ends, the other formats how long it is.
    late = (file_start(container) or 0.0) if "matroska" in container.format.name else 0.0
    return duration / av.time_base - late


def last_packet_end(container: InputContainer) -> float:
    """Seconds from the start of the file to the end of the last packet of sound or frames."""
    last = -math.inf
    streams = [stream for stream in container.streams if stream.type in ("video", "audio")]
    with suppress(FFmpegError):
        for packet in container.demux(streams):
            if packet.pts is not None:
                last = max(last, float((packet.pts + (packet.duration or 0)) * packet.time_base))
    return last - (file_start(container) or 0.0)
