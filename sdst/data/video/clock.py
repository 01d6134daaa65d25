"""The clock of a stream: packets in one time that runs on."""

from __future__ import annotations

import math
from fractions import Fraction

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.format import Flags as FormatFlags
from av.stream import Stream

# Clocks that leap further than this (s) are set anew, as ffmpeg takes them.
GREATEST_GAP = 10.0
SMALLEST_JUMP_BACK = {True: 0.1, False: 1.0}  # by whether the format allows for such clocks


def seconds_per_tick(stream: Stream) -> Fraction:
    """The unit of the stream's times."""
    assert stream.time_base is not None  # streams of an open file have one
    return stream.time_base


class Clock:
    """The packets of a stream on one clock that runs on, as far as the file can be read.

    Joined files begin their clocks again, a clock of 33 bits wraps after 26 hours, and transmitters
    set theirs anew. Like ffmpeg, what comes after such a jump follows what came before; other gaps
    are time in which the last frame stands still.
    """

    def __init__(self, container: InputContainer, stream: av.VideoStream) -> None:
        self._demuxed = container.demux(stream)
        self._leaps = bool(container.format.flags & FormatFlags.ts_discont.value)
        second = float(1 / seconds_per_tick(stream))
        self._gap = GREATEST_GAP * second if self._leaps else math.inf
        self._back = SMALLEST_JUMP_BACK[self._leaps] * second
        rate = float(stream.average_rate or 0)
        self._frame = second / rate if rate else 0.0
        self._shift = 0
        # Decoding time of the last packet, and of the one after it; NaN, like nothing, before.
        self._last = self._next = math.nan

    def read(self) -> av.Packet | None:
        """The next packet; None after the last."""
        try:
            packet = next((packet for packet in self._demuxed if packet.size), None)
        except FFmpegError:
            return None
        if packet is not None and packet.dts is not None:
            self._follow(packet, packet.dts)
        if packet is not None and self._shift:
            packet.dts = None if packet.dts is None else packet.dts + self._shift
            packet.pts = None if packet.pts is None else packet.pts + self._shift
        return packet

    def _follow(self, packet: av.Packet, dts: int) -> None:
        """Change the shift where the clock jumps; `dts` is the packet's."""
        time = dts + self._shift
        if abs(time - self._next) > self._gap or time + self._back < self._last:
            self._shift += round(self._next - time)
            time = dts + self._shift
        self._last, self._next = time, time + (packet.duration or self._frame)
