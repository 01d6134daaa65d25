"""Text files of other people: UTF-8 with or without a byte order mark, and JSON in it."""

from __future__ import annotations

import codecs
import json
import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO, TypeGuard

from sdst.errors import InputError, disguise

# What is no file, by the test for it; opening the others never waits.
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
MOST = sys.float_info.max
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def open_file(path: str | Path) -> BinaryIO:
    """Open a file to read; a pipe that nobody writes to is empty, and is not waited for.

    Raises:
        InputError: it is missing, no file, or may not be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a NUL in the name, or half a character
        raise InputError(f"{str(path)!r}: no name of a file ({error})") from None
    mode = os.fstat(handle).st_mode
    if found := next((kind for test, kind in KINDS if test(mode)), None):
        os.close(handle)
        raise InputError(f"{path}: is {found}, expected a file")
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """The content of a file.

    Raises:
        InputError: it cannot be read, or has more than `most` bytes.
    """
    with open_file(path) as file:
        try:
            content = file.read() if most is None else file.read(most + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    if most is not None and len(content) > most:
        raise InputError(f"{path}: has more than {most:,} bytes, which is no file of this kind")
    return content


def read_text(path: str | Path, most: int | None = None) -> str:
    """The content of a text file, without a byte order mark.

    Raises:
        InputError: it cannot be read, or is not UTF-8, naming the line.
    """
    return decode(read_bytes(path, most), path)


def read_lines(path: str | Path) -> list[str]:
    """The lines of a text file that are not blank, without the spaces around them."""
    lines = read_text(path).replace("\r", "\n").split("\n")
    return [line.strip() for line in lines if line.strip()]


def decode(content: bytes, path: str | Path, line: int = 1) -> str:
    """Bytes of a text file as text.

    Args:
        path: of the file, and the `line` where the bytes begin.

    Raises:
        InputError: they are not UTF-8.
    """
    if content.startswith(UTF_16) or b"\0" in content[:4]:
        raise InputError(f"{path}:{line}: UTF-16 or binary, expected text in UTF-8; save it so")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise InputError(
            f"{path}:{line}: byte {content[error.start]:#04x} is not UTF-8 (Latin-1 or "
            "Windows-1252, perhaps); save the file as UTF-8"
        ) from None


def parse_json(text: str, where: str) -> object:
    """The value that JSON text stands for.

    Raises:
        InputError: it is not JSON, names a key twice, is nested too deeply, or has a number that is
            too long; it begins with `where`.
    """
    try:
        return json.loads(text, object_pairs_hook=_with_each_key_once)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column" if error.lineno > 1 else "column"
        raise InputError(f"{where}: not JSON: {error.msg} at {place} {error.colno}") from error
    except RecursionError:
        raise InputError(f"{where}: JSON nested too deeply") from None
    except ValueError as error:  # Python's own limit of digits, and keys that come again
        raise InputError(f"{where}: not JSON that can be used: {error}") from None


def read_json(path: str | Path) -> object:
    """The value in a JSON file.

    Raises:
        InputError: it cannot be read, or is no JSON in UTF-8.
    """
    text = read_text(path)
    try:
        return parse_json(text, str(path))
    except InputError as error:
        raise (InputError(f"{path}: {what}") if (what := disguise(path)) else error) from None


def is_number(value: object) -> TypeGuard[float]:
    """Whether a JSON value is a finite number that fits a float; `true` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MOST


def is_file_name(text: str) -> bool:
    """Whether the system can have a file of this name or path."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character
        return False


def whole_characters(text: str) -> str:
    """`text` with a replacement character for each half of one (a lone surrogate)."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _with_each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} appears twice")
    return found
