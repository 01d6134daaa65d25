"""Checksums of an index's files, as LanceDB keeps none.

LanceDB writes a file once, under a name of its own, and does not change it. `checksums.json` beside
the table has the size and the CRC-32 of each as of the last update, and the version of the table.
Indexes of earlier versions of sdst have none and are read as they are.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path

from sdst.errors import InputError
from sdst.files.publish import replace_text
from sdst.files.sealed import read_sealed, seal

CHECKSUMS = "checksums.json"
PIECE = 2**20  # bytes read at once
REWRITTEN = "latest_version_hint.json"  # the one file that LanceDB changes


def check_files(table: Path, most: int | None = None) -> int:
    """Compare the files of a table with their checksums.

    Args:
        table: its folder; where it is missing, checksums of an earlier one are removed.
        most: bytes to read, of the smallest files first; the sizes of all are compared. None: all.

    Returns:
        The version of the table when the checksums were written; 0 where there are none.

    Raises:
        InputError: a file is damaged, or is a link, a pipe or a device, which is not opened.
    """
    place = table.parent / CHECKSUMS
    if not table.is_dir():
        place.unlink(missing_ok=True)
        return 0
    found = sorted(_files(table), key=lambda file: file[1])
    version, expected = _read(place, table)
    for name, size in found:
        if name not in expected:
            continue
        most = None if most is None else most - size
        same = size == expected[name][0]
        if same and (most is None or most >= 0):
            same = _checksum(table / name) in (None, expected[name][1])
        if not same:
            raise InputError(
                f"{table / name}: damaged (its content is not what was written); {_advice(table)}"
            )
    return version


def write_checksums(table: Path, version: int) -> None:
    """Note the checksums of a table's files; of those that are noted, the noted ones."""
    place = table.parent / CHECKSUMS
    _, known = _read(place, table)
    files = {
        name: known.get(name) or (size, _checksum(table / name)) for name, size in _files(table)
    }
    replace_text(place, seal({"version": version, "files": files}))


def _advice(table: Path) -> str:
    return f"remove {table} and run sdst.index again"


def _files(table: Path) -> Iterator[tuple[str, int]]:
    """Names of the table's files that do not change, and their sizes; a reader may be here while
    another process removes some."""
    for folder, folders, names in os.walk(table):
        for name in (*folders, *names):
            file = Path(folder, name)
            try:
                found = file.lstat()
            except FileNotFoundError:
                continue
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise InputError(f"{file}: is no regular file, so it is not read; {_advice(table)}")
            if name in names and name != REWRITTEN:
                yield str(file.relative_to(table)), found.st_size


def _read(place: Path, table: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """The version of a table, and the size and checksum of each file."""
    if not os.path.lexists(place):
        return 0, {}
    advice = _advice(table)
    content = read_sealed(place, advice)
    try:
        files = {str(name): (int(size), int(crc)) for name, (size, crc) in content["files"].items()}
        return int(content["version"]), files
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise InputError(f"{place}: damaged (no checksums of files); {advice}") from None


def _checksum(file: Path) -> int | None:
    """CRC-32 of a file; None where it has been removed."""
    checksum = 0
    try:
        with file.open("rb") as content:
            while piece := content.read(PIECE):
                checksum = zlib.crc32(piece, checksum)
    except FileNotFoundError:
        return None
    return checksum
