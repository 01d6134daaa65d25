"""The videos that are served: uploaded ones in a folder, and existing files that are only read.

    LIBRARY/<id>/video.mp4    as it was uploaded
    LIBRARY/<id>/video.json   its name, length and size

A folder of a video appears whole or not at all. Ids are made here; nothing that a request holds
becomes part of a path.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mimetypes
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from secrets import token_hex
from threading import Lock
from typing import BinaryIO

from sdst.data.video import probe
from sdst.data.video_files import VIDEO_ENDINGS
from sdst.errors import InputError, reading
from sdst.files.publish import lock, publish, remove_leftovers, scratch_folder
from sdst.memory import format_bytes
from sdst.serving.refusals import CONFLICT, NOT_FOUND, TOO_LARGE, UNPROCESSABLE, Refused

logger = logging.getLogger(__name__)

ID = re.compile(r"[0-9a-f]{12}")
ABOUT = "video.json"
LONGEST_NAME = 200  # characters
ADVICE = "expected what an upload left there; remove its folder"


@dataclass(frozen=True)
class Video:
    """A video of the library.

    Args:
        id: 12 hexadecimal digits.
        name: of the file, as the user knows it.
        path: of the file here.
        size: bytes.
        duration: seconds, as the header says.
        fps: frames per second, as the header says.
        width, height: pixels, as stored.
        added: seconds since the epoch.
        removable: whether it was uploaded, and so may be deleted.
    """

    id: str
    name: str
    path: Path
    size: int
    duration: float
    fps: float
    width: int
    height: int
    added: float
    removable: bool = True

    @property
    def media_type(self) -> str:
        """By the ending of its file."""
        return mimetypes.guess_type(f"x{self.path.suffix}")[0] or "video/mp4"


class Library:
    """The served videos by id; threads may share it.

    Args:
        folder: of uploads; created where needed, and locked against a second server.
        files: existing videos by their names, which are not changed.
        max_bytes: of an upload.

    Raises:
        InputError: the folder cannot be used, or another server uses it.
    """

    def __init__(self, folder: Path, files: Mapping[str, Path], max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        self._change = Lock()
        self._lock = _locked(folder)
        remove_leftovers(folder)
        self._videos = {video.id: video for video in (*_uploaded(folder), *_existing(files))}

    def __len__(self) -> int:
        return len(self._videos)

    def __contains__(self, vid: str) -> bool:
        return vid in self._videos

    def videos(self) -> list[Video]:
        """All of them, the newest first."""
        return sorted(list(self._videos.values()), key=lambda video: -video.added)

    def find(self, vid: str) -> Video:
        """The video of an id.

        Raises:
            Refused: there is none.
        """
        if (video := self._videos.get(vid)) is None:
            raise Refused(NOT_FOUND, f"no video {vid[:LONGEST_NAME]!r}; GET /api/videos lists them")
        return video

    @contextmanager
    def receive(self, name: str) -> Iterator[Upload]:
        """An upload to write; what was not finished is removed after the block."""
        vid = token_hex(6)
        with scratch_folder(self.folder / vid) as folder:
            path = folder / f"video{_ending(name)}"
            with path.open("wb") as file:
                yield Upload(self, vid, shown_name(name), path, file)

    def remove(self, vid: str) -> Video:
        """Take a video out, with its file.

        Raises:
            Refused: there is none, or its file is only read here.
        """
        with self._change:
            video = self.find(vid)
            if not video.removable:
                raise Refused(CONFLICT, f"{video.name}: is served from a folder; remove it there")
            del self._videos[vid]
        # Under its hidden name a half-removed folder is no video at the next start.
        hidden = self.folder / f".{vid}-{token_hex(4)}"
        with suppress(FileNotFoundError):  # it may have been deleted by hand
            (self.folder / vid).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
        return video

    def close(self) -> None:
        """Let another server use the folder."""
        os.close(self._lock)

    def add(self, video: Video) -> None:
        """Serve a video that is in its place."""
        with self._change:
            self._videos[video.id] = video


@dataclass
class Upload:
    """A file that is being received: `write` its bytes, then `finish`."""

    library: Library
    id: str
    name: str
    path: Path
    file: BinaryIO
    size: int = field(default=0)

    def write(self, data: bytes) -> None:
        """Append to the file.

        Raises:
            Refused: it has more bytes than an upload may have.
            OSError: the disk is full, or refuses.
        """
        self.size += len(data)
        check_size(self.size, self.library.max_bytes)
        self.file.write(data)

    def finish(self) -> Video:
        """Check that it is a video and put it into the library.

        Raises:
            Refused: it is none.
        """
        self.file.close()
        try:
            info = probe(self.path)
        except InputError as error:
            raise Refused(UNPROCESSABLE, renamed(error, self.path, self.name)) from None
        place = self.library.folder / self.id
        video = Video(
            id=self.id,
            name=self.name,
            path=place / self.path.name,
            size=self.size,
            duration=info.duration,
            fps=info.fps,
            width=info.width,
            height=info.height,
            added=time.time(),
        )
        about = asdict(video) | {"path": self.path.name}
        (self.path.parent / ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        publish(self.path.parent, place)
        self.library.add(video)
        return video


def check_size(size: int, most: int) -> None:
    """Refuse an upload of more than `most` bytes.

    Raises:
        Refused: it has more.
    """
    if size > most:
        raise Refused(
            TOO_LARGE, f"the upload has more than {format_bytes(most)}, the most that is taken here"
        )


def renamed(error: BaseException | str, path: Path, name: str) -> str:
    """The message of an error about a file, under the name that the user knows."""
    return str(error).replace(str(path), name)


def shown_name(name: str) -> str:
    """The last part of a name that a browser or a script gives, without what cannot be shown."""
    last = PurePosixPath(name.replace("\\", "/")).name
    printable = "".join(c for c in last if c.isprintable()).strip()
    return printable[-LONGEST_NAME:] or "video"


def _ending(name: str) -> str:
    """One of the known endings of videos, or nothing: FFmpeg recognizes some formats by it."""
    ending = PurePosixPath(name).suffix.lower()
    return ending if ending in VIDEO_ENDINGS else ""


def _locked(folder: Path) -> int:
    """The library's folder, open and locked."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise InputError(f"--library {folder}: cannot be used ({error.strerror})") from None
    if lock(descriptor) is False:
        os.close(descriptor)
        raise InputError(
            f"--library {folder}: another server uses it; stop that one, or give another folder"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        os.close(descriptor)
        raise InputError(f"--library {folder}: no permission to write there; give another folder")
    return descriptor


def _uploaded(folder: Path) -> Iterator[Video]:
    """The videos of a library's folder; what cannot be read is logged and stays."""
    for place in sorted(folder.iterdir()):
        if not ID.fullmatch(place.name):
            continue
        try:
            with reading(place / ABOUT, ADVICE):
                about = json.loads((place / ABOUT).read_text(encoding="utf-8"))
                name = about["path"]
                if PurePosixPath(name).name != name or not (place / name).is_file():
                    raise InputError(f"{place}: its video file is missing; {ADVICE}")
                yield Video(**about | {"id": place.name, "path": place / name, "removable": True})
        except InputError as error:
            logger.warning("left out: %s", error)


def _existing(files: Mapping[str, Path]) -> Iterator[Video]:
    """Videos that are served where they are; what cannot be read is logged."""
    for name, path in files.items():
        try:
            info, status = probe(path), path.stat()
        except (InputError, OSError) as error:
            logger.warning("left out: %s", error)
            continue
        identity = hashlib.sha256(os.fsencode(os.path.abspath(path))).hexdigest()
        yield Video(
            id=identity[:12],
            name=name,
            path=path,
            size=status.st_size,
            duration=info.duration,
            fps=info.fps,
            width=info.width,
            height=info.height,
            added=status.st_mtime,
            removable=False,
        )
