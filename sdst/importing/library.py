"""The videos that annotations may be of: found by name, and measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

from sdst.data.video import Measured, measure
from sdst.data.video_files import (
    VIDEO_ENDINGS,
    by_relative_path,
    composed,
    list_videos,
    video_id,
)
from sdst.errors import InputError
from sdst.terminal.suggest import did_you_mean

READERS = 4  # files at once


@dataclass(frozen=True)
class Video:
    """A file, and its path below the folder that holds all of them."""

    path: Path
    name: str

    @property
    def stem(self) -> str:
        """The name of the file without ending; of a folder of pictures, the folder's."""
        return video_id(self.path)


class Library:
    """Videos by the names that annotations have for them.

    Args:
        paths: files and folders, as `list_videos` takes them.

    Raises:
        InputError: a path does not exist, or a folder has no video.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._given = " ".join(map(str, paths))
        found = by_relative_path(list_videos(paths))
        self.videos = [Video(path, name) for name, path in found.items()]
        self._named: dict[str, list[Video]] = {}
        for video in self.videos:
            for name in _names_of(video):
                self._named.setdefault(name, []).append(video)
        self._answers: dict[tuple[str, ...], Video | InputError] = {}

    def find(self, names: tuple[str, ...]) -> Video:
        """The video that the first of these names means: a path or a file name, with its ending or
        without.

        Raises:
            InputError: there is none, or there are several.
        """
        if names not in self._answers:
            self._answers[names] = self._find(names)
        answer = self._answers[names]
        if isinstance(answer, InputError):
            raise answer
        return answer

    def _find(self, names: tuple[str, ...]) -> Video | InputError:
        for name in names:
            given = composed(name.strip()).replace("\\", "/").removeprefix("./")
            for candidate in (given, PureWindowsPath(given).name):
                videos = self._named.get(candidate, [])
                if len(videos) > 1:
                    files = ", ".join(video.name for video in videos)
                    return InputError(f"video {name} is one of {files}; write the path")
                if videos:
                    return videos[0]
        name = PureWindowsPath(names[0].strip()).name or names[0]
        known = self._endings if Path(name).suffix.lower() in VIDEO_ENDINGS else self._stems
        return InputError(f"no video {names[0]} in {self._given}{did_you_mean(name, known)}")

    @cached_property
    def _endings(self) -> list[str]:
        return [Path(video.name).name for video in self.videos]

    @cached_property
    def _stems(self) -> list[str]:
        return [video.stem for video in self.videos]


def measure_all(videos: Iterable[Video]) -> dict[Video, Measured | InputError]:
    """The length of every video, or why it has none."""
    videos = list(videos)
    with ThreadPoolExecutor(READERS) as pool:
        return dict(zip(videos, pool.map(_measure, videos), strict=True))


def ids_of(videos: Sequence[Video], library: Library) -> dict[Video, str]:
    """An id for each of `videos` that no other video of the library has: its name without ending,
    with it, or its path."""
    stems = [video.stem for video in library.videos]
    names = [Path(video.name).name for video in library.videos]
    ids = {}
    for video in videos:
        name = Path(video.name)
        unique = next(
            (
                x
                for x, all_of_them in ((video.stem, stems), (name.name, names))
                if all_of_them.count(x) == 1
            ),
            None,
        )
        ids[video] = unique or video.name.replace("/", "_")
    return ids


def _names_of(video: Video) -> set[str]:
    path = Path(video.name)
    return {video.name, path.name, path.with_name(video.stem).as_posix(), video.stem}


def _measure(video: Video) -> Measured | InputError:
    try:
        return measure(video.path)
    except InputError as error:
        return error
