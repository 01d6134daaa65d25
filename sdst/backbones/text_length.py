"""Sentences that are longer than a text tower reads."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdst.backbones import Backbone

MARKS = 2  # of start and end
SHOWN = 60  # characters of an unread end in a message


def unread(text: str, count: Callable[[str], int], room: int) -> str:
    """The end of `text` that has no room, from the beginning of a word; "" where all has.

    Args:
        count: tokens of a text, with the marks of start and end.
        room: tokens that are read.
    """
    at_most = len(text.encode(errors="replace")) + MARKS  # a token is a byte at least
    if at_most <= room or count(text) <= room:
        return ""
    read = bisect_right(range(1, len(text) + 1), room, key=lambda n: count(text[:n]))
    if not text[read].isspace():
        word = len(re.sub(r"\S*$", "", text[:read]))
        read = word or read  # a script without spaces is cut where it is
    return text[read:].strip()


def describe_unread(backbone: Backbone, texts: Sequence[str], names: str = "queries") -> str | None:
    """One line on how many sentences are cut, with the end of the first; None where none is."""
    cut = [end for end in backbone.unread(texts) if end]
    if not cut:
        return None
    end = cut[0] if len(cut[0]) <= SHOWN else f"{cut[0][: SHOWN - 3]}..."
    return (
        f"{len(cut):,} of {len(texts):,} {names} {'is' if len(cut) == 1 else 'are'} longer than "
        f"the text tower of {backbone.name} reads; not read of the first: {end!r}"
    )
