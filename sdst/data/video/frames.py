"""The frames of a file by their time, decoding no more of it than needed."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer
from av.error import FFmpegError

from sdst.data.video.clock import Clock, seconds_per_tick
from sdst.data.video.container import file_start, video_stream
from sdst.data.video_files import is_url
from sdst.errors import InputError

ROUNDING = 1e-6  # s, of times that are sums and products


class TimedFrame(NamedTuple):
    """A frame and when it starts, in ticks."""

    start: int
    frame: av.VideoFrame


class JumpError(Exception):
    """Reading could not continue where a jump landed."""


class Frames:
    """The frames of a file by their time, asked for in ascending order.

    A group of pictures that no time falls into is read but not decoded, nor is a picture of another
    group that neither a time nor another picture needs. Reading straight on rather than seeking
    needs no index, which broken files lack; decoding is most of the work.

    Args:
        container: an open file; `path` is its name.
        fps: frames per second, for pictures whose length the file does not say.
        jump: leave groups and pictures out. `JumpError` reports that the file cannot be decoded
            from where it claims to, then it has to be read again without.
    """

    def __init__(self, container: InputContainer, path: str | Path, fps: float, jump: bool):
        stream = video_stream(container, path)
        self._codec = stream.codec_context
        self._codec.thread_count = 1  # videos are decoded beside each other, and beside the encoder
        self._packets = Clock(container, stream)
        self._ahead: deque[av.Packet] = deque()  # read, not decoded
        self._frames: deque[TimedFrame] = deque()  # decoded, not asked for
        self._tick = seconds_per_tick(stream)
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
        first = self._next_frame()
        if first is None:
            advice = "the file is corrupt, re-encode it"
            if is_url(path):
                advice = "get the file and give its name, as some servers send no parts of a file"
            raise InputError(f"{path}: no frame can be decoded; {advice}")
        self._current = first
        start = file_start(container)
        self._zero = first.start if start is None else start / self._tick
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
        """Whether there are frames after `time` (s); reads packets until it is known."""
        while not self._over and self.reached <= time + ROUNDING:
            packet = next(self._read_on(), None)
            if packet is None:
                break
            self._ahead.append(packet)
        return self.reached > time + ROUNDING

    def at(self, time: float) -> av.VideoFrame:
        """The last picture that starts no later than `time` (s); the first, if none does."""
        limit = math.floor(self._zero + time / self._tick + 1e-6)
        if self._jump and self._upcoming is not None and self._upcoming.start <= limit:
            self._jump_towards(limit)
        while self._upcoming is not None and self._upcoming.start <= limit:
            self._current, self._upcoming = self._upcoming, self._next_frame()
        return self._current.frame

    def losses(self) -> tuple[int, int]:
        """Pictures that came out damaged or not at all, and how many were given to the decoder."""
        if not self._over:
            self._decode(None)
        # The HEVC decoder drops frames that refer to lost ones without a warning. Elsewhere a
        # packet without a frame is no fault by itself: it may hold a field, or a VP8 reference.
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
                key, scanned = packet.pts, []
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
        self._landed = key
        self._upcoming = self._next_frame()
        if self._upcoming is None or self._upcoming.start != key:
            raise JumpError

    def _read_on(self) -> Iterator[av.Packet]:
        """Packets that were not read before."""
        while (packet := self._packets.read()) is not None:
            self._see(packet)
            yield packet

    def _see(self, packet: av.Packet) -> None:
        if packet.pts is not None and not packet.is_discard:
            self._seen = max(self._seen, packet.pts + (packet.duration or self._frame_ticks))

    def _next_frame(self) -> TimedFrame | None:
        while not self._frames and not self._over:
            packet = self._ahead.popleft() if self._ahead else next(self._read_on(), None)
            self._decode(packet)
            self._over = packet is None
        return self._frames.popleft() if self._frames else None

    def _decode(self, packet: av.Packet | None) -> None:
        """Give the decoder a packet; None for what it still holds back."""
        if packet is not None:
            pts = packet.pts
            if pts is not None and pts < self._landed:
                return  # shown before the key picture, and may need one that was left out
            # Of a damaged file every frame may be needed to stand in.
            if pts is not None and pts < self._needed and not self._failed:
                self._codec.skip_frame = "NONREF"
                self._unneeded.add(pts)
            else:
                self._codec.skip_frame = "DEFAULT"
                self._given += not packet.is_discard
        try:
            frames = self._codec.decode(packet)
        except FFmpegError:
            self._failed += 1
            return
        for frame in frames:
            if frame.is_corrupt:
                self._failed += 1
                continue
            start = self._start_of(frame)
            end = start + (frame.duration or self._frame_ticks)
            self._last_end = max(self._last_end, end)
            self._good += start not in self._unneeded
            self._frames.append(TimedFrame(start, frame))
