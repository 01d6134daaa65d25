"""What tells that a video or query is not any more what its features were made of.

An origin is a number that a store keeps with every entry: of a query the checksum of its text, of a
video the bytes of its file. Time stamps are no part of it, as copies of a file get new ones. None
is not known (what stores of old keep, or a file that is gone), and passes for the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

Key = TypeVar("Key", bound="int | str")


def video_origins(videos: Mapping[str, Path]) -> dict[str, int | None]:
    """The bytes of every file, by vid."""
    return {vid: path.stat().st_size if path.is_file() else None for vid, path in videos.items()}


def query_origins(queries: Mapping[Key, str]) -> dict[Key, int]:
    """The checksum of every text, by qid."""
    return {qid: zlib.crc32(text.encode()) for qid, text in queries.items()}


def lacking(wanted: Mapping[Key, int | None], there: Mapping[Key, int | None]) -> list[Key]:
    """The ids of `wanted` that are not `there`, or there of another origin."""
    return [
        key
        for key, origin in wanted.items()
        if key not in there or (None not in (origin, there[key]) and origin != there[key])
    ]
