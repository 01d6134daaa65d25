"""Output of a command: a failure to print never loses its work."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters, line and paragraph separators, what turns the direction of writing; halves of
# characters, which no terminal has.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` on one line, with escapes in place of what would steer a terminal."""
    return _STEERING.sub(lambda found: ascii(found[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """Each line of `text` as by `printable`."""
    return "\n".join(map(printable, text.split("\n")))


class Sink(io.RawIOBase):
    """Writes to a stream until that fails, and drops what comes afterwards.

    Attributes:
        fault: the system's error number, once there is one; none where the reader went away, as
            `| head` does.
    """

    def __init__(self, stream: io.FileIO | io.BytesIO) -> None:
        self._stream, self._is_open = stream, True
        self.fault: int | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, data: Any, /) -> int:
        if self._is_open:
            try:
                return self._stream.write(data)
            except OSError as error:
                self._is_open = False
                self.fault = None if error.errno == errno.EPIPE else error.errno
        return len(data)


@contextmanager
def forgiving_output() -> Iterator[Sink]:
    """Let nothing printed in this block raise; the sink of standard output says what failed.

    Characters that the terminal's encoding lacks are shown as `\\uXXXX`.
    """
    before = sys.stdout, sys.stderr
    try:
        sys.stdout, sink = _forgiving(sys.stdout)
        sys.stderr, _ = _forgiving(sys.stderr)
        yield sink
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO | None) -> tuple[TextIO, Sink]:
    if stream is None:  # closed (`>&-`): its number must not go to the next file that is opened
        return open(os.devnull, "w", errors="backslashreplace"), Sink(io.BytesIO())
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO):  # of a test or a notebook
        return stream, Sink(io.BytesIO())
    stream.flush()
    sink = Sink(raw)
    unbuffered = not isinstance(buffer, io.BufferedWriter)
    return (
        io.TextIOWrapper(
            io.BufferedWriter(sink),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=bool(stream.line_buffering),
            write_through=unbuffered,
        ),
        sink,
    )
