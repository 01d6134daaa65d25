"""Moments cut from their files: packets copied where that gives just their frames, else encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.stream import Stream

from sdst.data.video.container import file_start, open_video, video_stream
from sdst.data.video.reader import displayed
from sdst.errors import InputError
from sdst.grounding.export.moment import Moment

COPIED = {"video": ("h264", "hevc", "av1", "vp9", "mpeg4"), "audio": ("aac", "mp3", "ac3", "opus")}
QUALITY = {"crf": "18", "preset": "veryfast"}  # of H.264, hard to tell from the original
SLUG = 40  # characters of a query in a file's name


def cut_all(moments: Sequence[Moment], folder: Path) -> list[Path]:
    """Cut every moment into an MP4 file of its own in `folder`, which is made where needed.

    Returns:
        The files, in the order of the moments.

    Raises:
        InputError: a video cannot be read or a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / name for name in clip_names(moments)]
    for moment, file in zip(moments, files, strict=True):
        cut(moment, file)
    return files


def clip_names(moments: Sequence[Moment]) -> list[str]:
    """`<video>.<query>.<rank>.mp4`, with a number behind where that comes again."""
    names: list[str] = []
    for moment in moments:
        words = "".join(c if c.isalnum() else " " for c in moment.query).split()
        name = f"{moment.video.stem}.{'-'.join(words)[:SLUG]}.{moment.rank}"
        again = sum(other == name or other.startswith(f"{name}~") for other in names)
        names.append(f"{name}~{again + 1}" if again else name)
    return [f"{name}.mp4" for name in names]


def cut(moment: Moment, out: Path) -> bool:
    """Cut a moment into an MP4 file, with its sound.

    The frames are those that start within it, to half a frame. Sound is cut to whole packets,
    some 20 ms.

    Returns:
        Whether the video was copied: where a moment begins with a key frame and no frame inside
        needs one outside.

    Raises:
        InputError: the video cannot be read, or `out` cannot be written.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with open_video(moment.video) as source, av.open(partial, "w", format="mp4") as output:
            copied = _cut(source, output, moment)
        partial.replace(out)
    except (FFmpegError, OSError) as error:
        raise InputError(
            f"{out}: {moment.video} cannot be cut at {moment.start:.2f} s ({error})"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return copied


def _cut(source: InputContainer, output: OutputContainer, moment: Moment) -> bool:
    video = video_stream(source, moment.video)
    sound = next(iter(source.streams.audio), None)
    zero = Fraction(file_start(source) or 0)
    start, end = zero + Fraction(moment.start), zero + Fraction(moment.end)
    half = 1 / (2 * Fraction(video.average_rate or 25))
    packets = _whole_packets(source, video, start - half, end - half)
    # All streams are declared before the first packet is written.
    write_video = _encode_video(output, video) if packets is None else _copy(output, video)
    write_sound = None
    if sound is not None:
        kept = sound.codec_context.name in COPIED["audio"]
        write_sound = _copy(output, sound) if kept else _encode_sound(output, sound)
    if packets is None:
        frames = _frames(source, video, start - half, end - half)
        write_video(frames, start)
    else:
        write_video(packets, start)
    if sound is not None and write_sound is not None:
        read = _packets if sound.codec_context.name in COPIED["audio"] else _frames
        write_sound(read(source, sound, start, end), start)
    return packets is not None


# PyAV's stubs have times that may be None; those of what `_demux` and `_frames` give are not.
Write = Callable[[Iterable[Any], Fraction], None]


def _copy(output: OutputContainer, template: Stream) -> Write:
    stream = output.add_stream_from_template(template)

    def write(packets: Iterable[Any], start: Fraction) -> None:
        for packet in packets:
            shift = round(start / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = stream
            output.mux(packet)

    return write


def _encode_video(output: OutputContainer, template: av.VideoStream) -> Write:
    rate = template.average_rate or 25
    stream = output.add_stream("libx264", rate=rate, options=QUALITY)
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = template.time_base  # type: ignore[assignment]

    def write(frames: Iterable[Any], start: Fraction) -> None:
        for frame in frames:
            pixels = displayed(frame)
            height, width = (side // 2 * 2 for side in pixels.shape[:2])  # as yuv420p needs it
            if not stream.codec_context.is_open:
                stream.width, stream.height = width, height
            shown = av.VideoFrame.from_ndarray(pixels[:height, :width].copy(), format="rgb24")
            shown.time_base = frame.time_base
            shown.pts = max(frame.pts - round(start / frame.time_base), 0)
            output.mux(stream.encode(shown))
        output.mux(stream.encode())

    return write


def _encode_sound(output: OutputContainer, template: av.AudioStream) -> Write:
    stream = output.add_stream("aac", rate=template.rate, layout=template.layout.name)

    def write(frames: Iterable[Any], start: Fraction) -> None:
        for frame in frames:
            frame.pts = max(frame.pts - round(start / frame.time_base), 0)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())

    return write


def _whole_packets(
    source: InputContainer, video: av.VideoStream, start: Fraction, end: Fraction
) -> list[av.Packet] | None:
    """The packets of the frames from `start` to before `end` (s, of the file's clock).

    None where they do not stand alone: the first is no key frame, or a frame needs one outside.
    """
    if video.codec_context.name not in COPIED["video"]:
        return None
    kept: list[av.Packet] = []
    beyond = False
    for packet in _demux(source, video, start):
        time = packet.pts * packet.time_base
        if not kept and not beyond and (time < start or not packet.is_keyframe):
            if time >= start:
                return None
            continue
        if packet.dts * packet.time_base >= end:
            break
        if time >= end:
            beyond = True
        elif beyond or time < start:
            return None
        else:
            kept.append(packet)
    return kept or None


def _packets(source: InputContainer, stream: Any, start: Fraction, end: Fraction) -> Iterator[Any]:
    """The packets that start within, where each stands alone, as those of sound do."""
    for packet in _demux(source, stream, start):
        if packet.pts * packet.time_base >= end:
            return
        if packet.pts * packet.time_base >= start:
            yield packet


def _frames(source: InputContainer, stream: Any, start: Fraction, end: Fraction) -> Iterator[Any]:
    """The decoded frames that start within; without one, the frame that is shown then."""
    _seek(source, stream, start)
    shown = None
    for packet in source.demux(stream):
        decoded: Any = packet.decode()
        for frame in decoded:
            if frame.pts is None:
                continue
            time = frame.pts * frame.time_base
            if time >= end:
                if shown is not None:
                    yield shown
                return
            shown = frame if time < start else None
            if shown is None:
                yield frame
    if shown is not None:
        yield shown


def _demux(source: InputContainer, stream: Any, start: Fraction) -> Iterator[Any]:
    """Packets with a time, from a key frame at or before `start` on."""
    _seek(source, stream, start)
    for packet in source.demux(stream):
        if packet.pts is not None and packet.dts is not None:
            yield packet


def _seek(source: InputContainer, stream: Any, start: Fraction) -> None:
    source.seek(max(int(start / stream.time_base), 0), stream=stream, backward=True)
