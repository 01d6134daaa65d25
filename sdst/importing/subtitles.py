"""SubRip and WebVTT: a cue is a moment of the video of the same name, its text the sentence."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from sdst.errors import InputError, disguise
from sdst.importing.rows import Doubt, Row

_TIMES = re.compile(r"\s*(\S+)\s*-->\s*(\S+)(?:\s.*)?")
_TAGS = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")
_LONG_REFERENCES = re.compile(r"&#x?[0-9a-fA-F]{10,};?")  # of no character
_NO_CUES = ("NOTE", "STYLE", "REGION")


def read_subtitles(text: str, path: Path, columns: Mapping[str, str]) -> Iterator[Row | Doubt]:
    """The cues of a file `park.srt` or `park.vtt`; `park.en.srt` is of `park` as well.

    Raises:
        InputError: there is no cue in it.
    """
    videos = (path.stem, path.stem.rpartition(".")[0]) if "." in path.stem else (path.stem,)
    empty = True
    for number, lines in _blocks(text):
        cue = next((i for i, line in enumerate(lines[:2]) if "-->" in line), None)
        if cue is None:
            if lines[0].strip().isdecimal():
                empty = False
                yield Doubt(f"{path}:{number}", "a cue without times")
            continue
        empty = False
        where = f"{path}:{number + cue}"
        found = _TIMES.fullmatch(lines[cue])
        if found is None:
            yield Doubt(where, f"{lines[cue].strip()!r}: expected START --> END")
            continue
        sentence = _TAGS.sub("", " ".join(lines[cue + 1 :]))
        sentence = html.unescape(_LONG_REFERENCES.sub("", sentence))
        yield Row(where, videos, sentence, found[1], found[2])
    if empty:
        found = disguise(path) or "no cue in it; expected SubRip (.srt) or WebVTT (.vtt)"
        raise InputError(f"{path}: {found}")


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Blocks between blank lines, each with the number of its first line; no comments or styles."""
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        if line.strip():
            block.append(line)
        elif block:
            if not block[0].startswith(_NO_CUES):
                yield number - len(block), block
            block = []
