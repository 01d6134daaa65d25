"""Videos that show their own time: every frame has in blocks of grey when it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 10
GRID = 4  # 16 bits, hundredths of a second


def draw_time(time: float, size: tuple[int, int]) -> np.ndarray:
    """RGB `[H, W, 3]` of `size` (width, height) that shows `time` (s)."""
    width, height = size
    bits = round(100 * time) >> np.arange(GRID * GRID).reshape(GRID, GRID) & 1
    rows, columns = np.arange(height) * GRID // height, np.arange(width) * GRID // width
    return (40 + 170 * bits[rows][:, columns, None]).repeat(3, axis=2).astype(np.uint8)


def times_shown(batches: Iterable[np.ndarray]) -> np.ndarray:
    """Seconds that the frames of `batches`, `[T, H, W, 3]` each, show: `[all T]`."""
    frames = np.concatenate(list(batches)).mean(axis=3)
    rows, columns = (
        ((np.arange(GRID) + 0.5) * side / GRID).astype(int) for side in frames.shape[1:]
    )
    bits = frames[:, rows][:, :, columns].reshape(len(frames), -1) > 125
    return (bits << np.arange(GRID * GRID)).sum(axis=1) / 100


def write_video(
    path: Path,
    times: Sequence[float],
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    clock: int = FPS,
    shift: float = 0.0,
    rotation: int = 0,
    options: dict[str, str] | None = None,
    **container_options: str,
) -> Path:
    """A video whose pictures start at `times` (s), a key picture a second at most.

    Args:
        size: width and height in pixels.
        clock: ticks per second that `times` are rounded to.
        shift: seconds added to the time stamps, not to what the pictures show.
        rotation: degrees, counter-clockwise, that a player has to turn the pictures by.
        options: of the encoder.
        container_options: of the file format.
    """
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=FPS, options={"g": "10", **(options or {})})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, clock)
        if rotation:
            stream.set_display_rotation(rotation)
        for time in times:
            upright = draw_time(time, (size[1], size[0]) if rotation % 180 else size)
            pixels = np.rot90(upright, -rotation // 90)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = round((time + shift) * clock), Fraction(1, clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_in_pictures(whole: Path, path: Path, kept: float = 2 / 3) -> None:
    """The same file with its header in front, and of its bytes the share that is kept."""
    with (
        av.open(str(whole)) as source,
        av.open(str(path), "w", options={"movflags": "faststart"}) as target,
    ):
        [stream] = source.streams
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                target.mux(packet)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
