"""Files and folders that appear whole or not at all, also where the power fails.

Everything is written beside its place under a hidden name, synchronised to the disk, and renamed.
The process that writes holds a lock on the hidden name, so that the next one to write in the same
place can remove what a killed process left, and nothing else.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from sdst.errors import InputError

_TOKEN = r"-[a-z0-9_]{8}"  # ends a hidden name
_STREAMS = ("/dev/fd/", "/dev/std", "/proc/")  # these name what is open already


def lock(descriptor: int, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file or folder until it is closed.

    Returns:
        Whether it is locked; False where another process has it, None where the file system knows
        no locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_locked(path: Path) -> bool:
    """Whether another process has locked a file or folder, as far as this one can see."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return lock(descriptor, shared=True) is False
    finally:
        os.close(descriptor)


def replace_text(path: str | Path, text: str) -> None:
    """Make `text` the content of `path` at once, creating its folder where needed.

    Raises:
        InputError: it cannot be written; what was there stays.
    """
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an error.

    Its folder is created where needed. What is no regular file, `/dev/stdout` say, is written to;
    a symbolic link is replaced.

    Raises:
        InputError: it cannot be written; what was there stays.
    """
    path = Path(path)
    try:
        if _is_stream(path):
            with path.open("wb") as file:
                yield file
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        hidden, descriptor = _hidden(path, _new_file)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                hidden.replace(path)
        finally:
            hidden.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def own_file(path: Path, append: bool = False) -> BinaryIO:
    """A file to read, and to write in place or at its end; made where it is missing.

    Raises:
        InputError: a symbolic link, a pipe or a device has the name, whoever planted it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags | (os.O_APPEND if append else 0), 0o666)
    except OSError as error:
        if path.is_symlink():
            raise InputError(f"{path}: is a symbolic link, which is not written through") from None
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InputError(f"{path}: is no regular file, so it is not written to")
    return os.fdopen(descriptor, "ab+" if append else "r+b")


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, to `publish` there; what is left of it goes with the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden, descriptor = _hidden(path, _new_folder)
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        os.close(descriptor)


def publish(finished: Path, path: Path) -> None:
    """Give a finished file or folder its name: a file in the place of another, a folder of none.

    Raises:
        OSError: a folder with files is at `path`.
    """
    for place, _, files in os.walk(finished):
        for name in (*files, "."):
            sync(Path(place, name))
    if finished.is_file():
        sync(finished)
    finished.rename(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if path.is_dir():
            with suppress(OSError):  # not every file system synchronises folders
                os.fsync(descriptor)
        else:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder` while they wrote `name`, or anything."""
    pattern = re.compile((r"\..+" if name is None else re.escape(f".{name}")) + _TOKEN)
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name):
                remove_unlocked(Path(entry.path))


def remove_unlocked(path: Path, lock_of: Path | None = None) -> None:
    """Remove a file or folder that no process holds locked.

    Args:
        lock_of: what carries the lock; None: `path` itself.
    """
    try:
        descriptor = os.open(lock_of or path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        if lock(descriptor):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _hidden(path: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """A new name beside `path`, and what is open and locked there."""
    remove_leftovers(path.parent, path.name)
    while True:
        hidden = path.with_name(f".{path.name}-{token_hex(4)}")
        descriptor = make(hidden)
        # Until it is locked, another process may take it for a leftover.
        if lock(descriptor) is not False and _names(hidden, descriptor):
            return hidden, descriptor
        os.close(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # it was taken for a leftover
        return os.open(os.devnull, os.O_RDONLY)


def _names(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_stream(path: Path) -> bool:
    if str(path).startswith(_STREAMS):
        return True
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))
