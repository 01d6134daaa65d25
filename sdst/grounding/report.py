"""Answers as the command prints and writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdst.terminal.output import printable
from sdst.terminal.times import format_time

if TYPE_CHECKING:
    from sdst.grounding.answers import Grounding
    from sdst.grounding.search import Found


EVEN = 0.5  # presence below which a video rather has not what is asked for


def format_video(name: str, answer: Grounding) -> str:
    """A line on the video that was asked."""
    clips = len(answer.saliency)
    length = f"{clips} clip{'' if clips == 1 else 's'} of {answer.clip_length:g} s"
    return f"{printable(name)}: {format_time(answer.duration)}, {length}"


def format_table(answer: Grounding) -> str:
    """The query, whether the video has it, and its moments, one a line, ranked."""
    lines = [printable(answer.query.strip()) + _presence(answer.presence)]
    if not answer.moments:
        return "\n".join([*lines, "  nothing: its presence is less than asked for"])
    lines.append("  rank     start       end   score")
    for rank, (start, end, score) in enumerate(answer.moments, 1):
        lines.append(f"  {rank:>4} {format_time(start):>9} {format_time(end):>9}   {score:5.3f}")
    return "\n".join(lines)


def _presence(presence: float | None) -> str:
    if presence is None:
        return ""
    return f"  (presence {presence:.2f}{'' if presence >= EVEN else ': rather not in this video'})"


def format_found(query: str, found: Sequence[Found], videos: int) -> str:
    """The query and its moments of so many videos, one a line, ranked."""
    lines = [f"{printable(query.strip())}, best of {videos:,} video{'' if videos == 1 else 's'}"]
    known = any(moment.presence is not None for moment in found)
    lines.append(f"  rank     start       end   score{'  presence' if known else ''}  video")
    for rank, moment in enumerate(found, 1):
        start, end = format_time(moment.start), format_time(moment.end)
        presence = f"{moment.presence:>10.2f}" if known else ""
        video = printable(moment.vid)
        lines.append(f"  {rank:>4} {start:>9} {end:>9}   {moment.score:5.3f}{presence}  {video}")
    if not found:
        return "\n".join([lines[0], "  nothing: no video's presence is as much as asked for"])
    return "\n".join(lines)


def as_json(video: str | Path, answers: Sequence[Grounding]) -> str:
    """The answers under the names of the official submission; what was not read of a query."""
    first = answers[0]
    content = {
        "video": str(video),
        "duration": first.duration,
        "clip_length": first.clip_length,
        "answers": [
            {
                "query": answer.query,
                "unread": answer.unread,
                "presence": _rounded(answer.presence),
                "pred_relevant_windows": np.round(answer.windows, 4).tolist(),
                "pred_saliency_scores": np.round(answer.saliency.astype(float), 4).tolist(),
            }
            for answer in answers
        ],
    }
    return json.dumps(content) + "\n"


def found_as_json(
    queries: Sequence[str], answers: Sequence[Sequence[Found]], unread: Sequence[str]
) -> str:
    """The moments of many videos, a record for every query."""
    records = [
        {
            "query": query,
            "unread": rest,
            "moments": [
                {
                    "vid": moment.vid,
                    "start": round(moment.start, 4),
                    "end": round(moment.end, 4),
                    "score": round(moment.score, 4),
                    "presence": _rounded(moment.presence),
                }
                for moment in found
            ],
        }
        for query, found, rest in zip(queries, answers, unread, strict=True)
    ]
    return json.dumps(records) + "\n"


def _rounded(presence: float | None) -> float | None:
    return None if presence is None else round(presence, 4)
