"""`python -m benchmarks.decoding`: CPU time and memory of reading frames from a video.

CPU seconds per minute of a 480p video at 30 fps for a frame every 0.5 to 4 s, of sdst's reader, of
a plain loop over all frames by PyAV and of decord (where installed), in turns, on one thread; and
the peak memory of reading `--minutes` of it and a sixth of that. The video is a texture that moves
two pixels a frame, a minute of which is encoded and then repeated.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import av
import numpy as np

from sdst.data.video import ClipReader, clip_times, num_clips
from sdst.memory import peak_memory

WIDTH, HEIGHT, FPS, SECONDS = 854, 480, 30, 60
SPACINGS = (0.5, 1.0, 2.0, 4.0)  # seconds
GROUPS = (1, 2, 8)  # seconds between key frames
BATCH = 64
ROUNDS = 5


def write_minute(path: Path, group: int) -> None:
    """H.264 with a key frame every `group` seconds."""
    coarse = np.random.default_rng(0).integers(0, 255, (HEIGHT // 8, WIDTH // 8 + 1, 3), np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:, :WIDTH]
    options = {"preset": "veryfast", "g": str(group * FPS), "keyint_min": str(group * FPS)}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={**options, "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(FPS * SECONDS):
            pixels = np.ascontiguousarray(np.roll(texture, 2 * number, axis=1))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def repeat(path: Path, out: Path, times: int) -> None:
    """The packets of a video `times` times in a row."""
    with av.open(str(out), "w") as target:
        with av.open(str(path)) as source:
            stream = target.add_stream_from_template(source.streams.video[0])
        for turn in range(times):
            with av.open(str(path)) as source:
                for packet in source.demux(video=0):
                    if packet.pts is not None and packet.dts is not None:
                        shift = int(turn * SECONDS / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        packet.stream = stream
                        target.mux(packet)


def read_ours(path: Path, spacing: float) -> int:
    return sum(len(batch) for batch in ClipReader(path, spacing))


def read_all(path: Path, spacing: float) -> int:
    """Decode every frame, keep those requested."""
    count = 0
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            if frame.time >= Fraction(2 * count + 1, 2) * Fraction(spacing):
                frame.to_ndarray(format="rgb24")
                count += 1
    return count


def read_decord(path: Path, spacing: float) -> int:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    spans = reader.get_frame_timestamp(range(len(reader)))
    clips = range(num_clips(spans[-1, 1], spacing))
    times = list(chain.from_iterable(clip_times(clip, spacing) for clip in clips))
    indices = np.searchsorted(spans[:, 0], times, side="right") - 1
    batches = [indices[first : first + BATCH] for first in range(0, len(indices), BATCH)]
    return sum(len(reader.get_batch(batch).asnumpy()) for batch in batches)


def costs(path: Path, spacing: float) -> dict[str, float]:
    """Processor seconds per minute of video, the median of rounds in turns."""
    readers: dict[str, Callable[[Path, float], int]] = {"ours": read_ours, "PyAV": read_all}
    if find_spec("decord"):
        readers["decord"] = read_decord
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(ROUNDS):
        for name, read in readers.items():
            start = time.process_time()
            frames = read(path, spacing)
            seconds[name].append(time.process_time() - start)
            if frames != num_clips(SECONDS, spacing):
                raise RuntimeError(f"{name} gave {frames} frames")
    return {name: statistics.median(found) * 60 / SECONDS for name, found in seconds.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m benchmarks.decoding --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoding",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=int, default=60, help="default: %(default)s")
    minutes = parser.parse_args(arguments).minutes
    with tempfile.TemporaryDirectory() as folder:
        print("| key frame every | a frame every | CPU s per minute of video |\n|---|---|---|")
        for group in GROUPS:
            path = Path(folder) / f"{group}.mp4"
            write_minute(path, group)
            for spacing in SPACINGS:
                found = ", ".join(f"{n} {s:.2f}" for n, s in costs(path, spacing).items())
                print(f"| {group} s | {spacing} s | {found} |", flush=True)
        minute, long = Path(folder) / f"{GROUPS[-1]}.mp4", Path(folder) / "long.mp4"
        for length in (max(1, minutes // 6), minutes):
            repeat(minute, long, length)
            peak = peak_memory(lambda: read_ours(long, 2.0)) / 2**20
            print(f"{length} minutes, a frame every 2 s: {peak:.0f} MiB at the peak")


if __name__ == "__main__":
    main()
