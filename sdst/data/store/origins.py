"""Origins: whether a video or query still is the one its features were made from.

An origin is a number that a store keeps with every entry: of a query the checksum of its text, of a
video that of its file's size, first and last bytes; of a folder of pictures that of their names and
sizes. That is cheap for hours of video, and another encoding of the same frames differs there:
containers begin or end with an index of all they hold. Time stamps are no part of it, as copies of
a file get new ones. None is not known (a file that cannot be read, a URL, or a store that does not
say), and passes for the same.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sdst.data.video_files import FRAME_RATE, is_picture_folder, is_url, picture_files
from sdst.errors import InputError
from sdst.files.text import open_file

Key = TypeVar("Key", bound="int | str")

ENDS = 2**16  # bytes, of either end of a file
READERS = 8  # files at once: on a shared disk every file is waited for


def video_origins(videos: Mapping[str, str | Path]) -> dict[str, int | None]:
    """The checksum of every file's size and ends, by vid."""
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(videos, pool.map(_file_origin, videos.values()), strict=True))


def query_origins(queries: Mapping[Key, str]) -> dict[Key, int]:
    """The checksum of every text, by qid."""
    return {qid: zlib.crc32(text.encode()) for qid, text in queries.items()}


def lacking(requested: Mapping[Key, int | None], there: Mapping[Key, int | None]) -> list[Key]:
    """The ids of `requested` that are not `there`, or there of another origin."""
    return [
        key
        for key, origin in requested.items()
        if key not in there or (None not in (origin, there[key]) and origin != there[key])
    ]


def _file_origin(path: str | Path) -> int | None:
    if is_url(path):
        return None
    try:
        if is_picture_folder(path):
            return _folder_origin(Path(path))
        with open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            found = zlib.crc32(str(size).encode())
            for start in (0, max(size - ENDS, 0)):
                file.seek(start)
                found = zlib.crc32(file.read(ENDS), found)
            return found
    except (OSError, InputError):
        return None


def _folder_origin(folder: Path) -> int:
    sizes = [f"{file.name} {file.stat().st_size}" for file in picture_files(folder)]
    return zlib.crc32((folder / FRAME_RATE).read_bytes(), zlib.crc32("\n".join(sizes).encode()))
