"""The disk cache of encoded videos and sentences, those used last within a limit.

An entry is a folder: a store of one video, or `SENTENCE_FILE`. `$SDST_CACHE_GB` is the limit. Who
uses an entry has its folder locked, so that nobody removes it.
"""

from __future__ import annotations

import math
import os
import shutil
import stat
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdst.errors import InputError
from sdst.files.cache_folder import cache_dir
from sdst.files.publish import lock, remove_leftovers

LIMIT = "SDST_CACHE_GB"
DEFAULT_GB = 20.0
SENTENCE_FILE = "sentence.safetensors"
_ENTRY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True)
class Kept:
    """An entry of the cache.

    Args:
        used: when it was used last, in seconds since the epoch.
    """

    path: Path
    nbytes: int
    used: float

    @property
    def is_sentence(self) -> bool:
        """Whether it is of a sentence, and else of a video."""
        return (self.path / SENTENCE_FILE).is_file()


def grounding_cache() -> Path:
    """The folder of encoded videos and sentences."""
    return cache_dir() / "grounding"


def limit() -> float:
    """The most bytes that encoded videos and sentences take on the disk.

    Raises:
        InputError: `$SDST_CACHE_GB` is no number of gigabytes.
    """
    given = os.environ.get(LIMIT) or DEFAULT_GB
    try:
        gigabytes = float(given)
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise InputError(f"{LIMIT} {given!r}: expected gigabytes, {DEFAULT_GB:g} without it")
    return gigabytes * 1e9


def entries(folder: Path) -> list[Kept]:
    """The entries in `folder`, those used longest ago first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            # A link or pipe is nobody's entry: what is behind it is neither counted nor removed.
            if not path.name.startswith(".") and stat.S_ISDIR(path.lstat().st_mode):
                found.append(Kept(path, folder_size(path), path.stat().st_mtime))
        except FileNotFoundError:  # another process has removed it
            continue
    return sorted(found, key=lambda entry: entry.used)


def folder_size(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    sizes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                sizes += os.lstat(Path(place, name)).st_size
            except FileNotFoundError:
                continue
    return sizes


def open_entry(folder: Path) -> int | None:
    """Lock the entry in `folder` for use; None where there is none, or it is being removed."""
    try:
        descriptor = os.open(folder, _ENTRY)
    except OSError:
        return None
    if lock(descriptor, shared=True) is False:
        os.close(descriptor)
        return None
    with suppress(OSError):  # of a cache that this process may only read
        os.utime(descriptor)
    return descriptor


def hold(user: object, descriptor: int) -> None:
    """Keep what `open_entry` locked until `user` is gone."""
    weakref.finalize(user, os.close, descriptor)


def trim(folder: Path, most: float) -> int:
    """Remove the entries used longest ago, but those in use, until all take at most `most` bytes.

    What killed processes left there goes as well.

    Returns:
        How many bytes were freed.
    """
    remove_leftovers(folder)
    kept = entries(folder)
    excess = sum(entry.nbytes for entry in kept) - most
    freed = 0
    for entry in kept:
        if freed >= excess:
            break
        if _remove(entry.path):
            freed += entry.nbytes
    return freed


def _remove(path: Path) -> bool:
    """Remove an entry that nobody uses."""
    try:
        descriptor = os.open(path, _ENTRY)
    except OSError:
        return False
    try:
        if lock(descriptor) is False:
            return False
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()
    finally:
        os.close(descriptor)
