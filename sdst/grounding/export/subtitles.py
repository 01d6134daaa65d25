"""Moments of one video as subtitles, which players and editors show while it plays."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence

from sdst.grounding.export.moment import Moment


def as_srt(moments: Sequence[Moment]) -> str:
    """SubRip."""
    cues = enumerate(_in_order(moments), 1)
    return "\n".join(f"{number}\n{_times(cue, ',')}\n{_text(cue)}\n" for number, cue in cues)


def as_vtt(moments: Sequence[Moment]) -> str:
    """WebVTT."""
    cues = (
        f"{_times(cue, '.')}\n{html.escape(_text(cue), quote=False)}\n"
        for cue in _in_order(moments)
    )
    return "\n".join(["WEBVTT\n", *cues])


def _in_order(moments: Sequence[Moment]) -> Iterator[Moment]:
    return iter(sorted(moments, key=lambda moment: (moment.start, moment.rank)))


def _text(moment: Moment) -> str:
    return f"{moment.title} ({moment.score:.2f})"


def _times(moment: Moment, mark: str) -> str:
    return f"{_clock(moment.start, mark)} --> {_clock(moment.end, mark)}"


def _clock(seconds: float, mark: str) -> str:
    """00:01:02,345 with `mark` before the milliseconds."""
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    minutes, seconds_left = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds_left:02}{mark}{milliseconds:03}"
