"""From the rows of files to queries of videos, with everything doubtful left out and listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdst.data.annotations import END_TOLERANCE
from sdst.data.video import Measured
from sdst.errors import InputError
from sdst.files.text import whole_characters
from sdst.importing.library import Library, Video, measure_all
from sdst.importing.rows import Doubt, Query, Row
from sdst.importing.splits import split_named
from sdst.importing.times import has_decimal_commas, in_seconds, parse_time
from sdst.terminal.times import format_time


@dataclass
class Moments:
    """The moments found.

    Attributes:
        queries: in the order of the files.
        lengths: of every video that has queries.
        doubts: what was left out, in the order of the files.
        notes: what was used all the same.
    """

    queries: list[Query] = field(default_factory=list)
    lengths: dict[Video, Measured] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(
    rows: Sequence[Row | Doubt], library: Library, frame_rate: float | None = None
) -> Moments:
    """Queries of the rows that make sense; the rest is in `doubts`.

    Rows of one sentence and video become one query with several moments.

    Args:
        rows: of one file or of many.
        frame_rate: of times that count frames; the video's own where None.
    """
    moments = Moments()
    found = [_find_video(row, library) for row in rows]
    measured = measure_all({video for video in found if isinstance(video, Video)})
    good = [row for row in rows if isinstance(row, Row)]
    comma = has_decimal_commas(time for row in good for time in (row.start, row.end))
    has_splits = any(row.split for row in good)
    queries = _Queries()
    for row, video in zip(rows, found, strict=True):
        try:
            if isinstance(row, Doubt):
                raise InputError(row.reason)
            if isinstance(video, InputError):
                raise video
            length = measured[video]
            if isinstance(length, InputError):
                raise InputError(f"its video cannot be used: {length}")
            if has_splits and row.split is None:
                raise InputError("names no split, as others do")
            queries.add(row, video, _window(row, length, comma, frame_rate))
            moments.lengths[video] = length
        except InputError as error:
            moments.doubts.append(Doubt(row.where, str(error)))
    moments.queries = queries.all_of_them()
    moments.notes = [fault for length in moments.lengths.values() for fault in length.faults]
    return moments


class _Queries:
    """Queries that grow by rows of the same sentence and video."""

    def __init__(self) -> None:
        self._queries: dict[tuple[Video, str], Query] = {}
        self._first_use: dict[tuple[Video, str, tuple[float, float]], str] = {}

    def add(self, row: Row, video: Video, window: tuple[float, float]) -> None:
        """Enter a moment.

        Raises:
            InputError: it has no sentence, is there already, or is of another split.
        """
        sentence = whole_characters(" ".join(row.sentence.split()))
        if not sentence:
            raise InputError("the sentence is empty")
        split = None if row.split is None else split_named(row.split)
        alike = sentence.casefold()
        if before := self._first_use.get((video, alike, window)):
            raise InputError(f"the same as {before}")
        query = self._queries.setdefault((video, alike), Query(video, sentence, [], split))
        if query.split != split:
            raise InputError(f"is of split {split}, the same sentence before of {query.split}")
        self._first_use[video, alike, window] = row.where
        query.windows.append(window)

    def all_of_them(self) -> list[Query]:
        """In their order, with their windows in order."""
        for query in self._queries.values():
            query.windows.sort()
        return list(self._queries.values())


def _find_video(row: Row | Doubt, library: Library) -> Video | InputError:
    """The video of a row, or why it has none."""
    try:
        return library.find(row.videos) if isinstance(row, Row) else InputError(row.reason)
    except InputError as error:
        return error


def _window(
    row: Row, length: Measured, comma: bool, frame_rate: float | None
) -> tuple[float, float]:
    """Start and end in seconds, within the video.

    Raises:
        InputError: they are no times, in the wrong order, or outside of the video.
    """
    rate = frame_rate or length.info.fps
    times = []
    for name in ("start", "end"):
        unit = getattr(row, f"{name}_unit")
        if unit == "frames" and not rate:
            raise InputError("counts frames of a video without a frame rate; give --frame-rate")
        try:
            value = parse_time(getattr(row, name), comma)
        except ValueError as error:
            raise InputError(f"{name} {error}") from None
        clock = isinstance(getattr(row, name), str) and ":" in getattr(row, name)
        times.append(in_seconds(value, "s" if clock else unit, rate, name == "end"))
    start, end = (round(time, 3) for time in times)
    if end <= start:
        raise InputError(f"end {_shown(end)} is not after start {_shown(start)}")
    if start < 0:
        raise InputError(f"start {_shown(start)} is before the video")
    if start >= length.duration or end > length.duration + END_TOLERANCE:
        name, time = ("start", start) if start >= length.duration else ("end", end)
        raise InputError(
            f"{name} {_shown(time)} is beyond the video, which has {_shown(length.duration)}"
        )
    return start, min(end, length.duration)


def _shown(seconds: float) -> str:
    """Seconds, and beyond a minute as a clock too."""
    clock = f" ({format_time(seconds)})" if seconds >= 60 else ""
    return f"{seconds:g} s{clock}"
