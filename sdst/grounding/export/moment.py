"""A moment as it is exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from sdst.grounding.answers import Grounding
    from sdst.grounding.search import Found


@dataclass(frozen=True)
class Moment:
    """A moment of a video file.

    Args:
        video: the file.
        query: the sentence.
        rank: 1 is the query's best.
        start, end: seconds.
        score: of the answer.
        shown: the file's name in what is written, in place of its path here.
    """

    video: Path
    query: str
    rank: int
    start: float
    end: float
    score: float
    shown: str = ""

    @property
    def name(self) -> str:
        """The video as tables have it."""
        return self.shown or str(self.video)

    @property
    def uri(self) -> str:
        """The video as time lines refer to it; relative to them where `shown` names it."""
        return quote(self.shown) if self.shown else self.video.resolve().as_uri()

    @property
    def title(self) -> str:
        """The query on one line, without what no text format can hold."""
        return " ".join("".join(c if c.isprintable() else " " for c in self.query).split())


def moments_of(answer: Grounding) -> list[Moment]:
    """The moments of an answer about one video."""
    return [
        Moment(Path(answer.video), answer.query, rank, start, end, score)
        for rank, (start, end, score) in enumerate(answer.moments, 1)
    ]


def moments_found(
    query: str, found: Sequence[Found], files: Mapping[str, str | Path]
) -> list[Moment]:
    """The moments of a search; a video without a file goes by its id."""
    return [
        Moment(Path(files.get(x.vid, x.vid)), query, rank, x.start, x.end, x.score)
        for rank, x in enumerate(found, 1)
    ]
