"""A moment in an annotation file's own words, and doubts about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from sdst.importing.library import Video

Unit = Literal["s", "ms", "frames"]
Value = str | int | float


class Doubt(NamedTuple):
    """Something that a person should look at: `path:line` and the reason."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Row:
    """A moment as a file has it.

    Args:
        where: `path:line`.
        videos: names that may be meant, the likeliest first.
        sentence: its text, with whatever spaces.
        start, end: in `start_unit` and `end_unit`; a text is read by `sdst.importing.times`.
        split: train, val or test, by any of their names.
    """

    where: str
    videos: tuple[str, ...]
    sentence: str
    start: Value
    end: Value
    start_unit: Unit = "s"
    end_unit: Unit = "s"
    split: str | None = None


@dataclass
class Query:
    """A sentence, its video and the moments at which it holds.

    Attributes:
        windows: (start, end) in seconds, in order.
        split: that the file names; None where it does not.
    """

    video: Video
    sentence: str
    windows: list[tuple[float, float]]
    split: str | None
