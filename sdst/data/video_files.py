"""Which files are videos, by their ids: the file name without its ending.

A folder of numbered pictures is a video, too, where its `frame_rate.txt` says how many are shown a
second; its id is its name. An address with a scheme (`https://...`) is one where a person gives it.

A name may be spelled in several ways that look alike: `é` is one letter, or an e and an accent, as
macOS writes it. Ids are in the composed form (NFC), and names are compared in it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from sdst.errors import InputError
from sdst.files.text import read_lines

VIDEO_ENDINGS = frozenset(
    [
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".f4v",
        ".flv",
        ".gif",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogv",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
    ]
)

PICTURE_ENDINGS = frozenset(
    [".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
FRAME_RATE = "frame_rate.txt"  # in a folder of pictures
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_url(video: str | Path) -> bool:
    """Whether a text has a scheme; a `Path` has none."""
    return isinstance(video, str) and _SCHEME.match(video) is not None


def is_picture_folder(path: str | Path) -> bool:
    """Whether a folder is a video made of pictures."""
    return (Path(path) / FRAME_RATE).is_file()


def picture_files(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: 2 before 10."""
    files = [
        file
        for file in folder.iterdir()
        if file.suffix.lower() in PICTURE_ENDINGS and not file.name.startswith(".")
    ]
    return sorted(files, key=lambda file: _natural(file.name))


def video_id(path: Path) -> str:
    """The id of a video: its name without ending, of a folder its name."""
    return composed(path.name if is_picture_folder(path) else path.stem)


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """The videos among `paths`, by id.

    Args:
        paths: video files, folders with such anywhere in them (links are followed), and lists
            (`.txt`) with a path on every line, beside the list where it is relative.

    Raises:
        InputError: a path does not exist, a folder has no video, or two have one id.
    """
    return _by_id(list_videos(paths))


def by_relative_path(files: Sequence[Path]) -> dict[str, Path]:
    """Videos by their paths below the folder that holds all of them.

    Files of one name in several folders get different ids.
    """
    if not files:
        return {}
    whole = [Path(os.path.abspath(file)) for file in files]
    root = os.path.commonpath([file.parent for file in whole])
    return {
        composed(file.relative_to(root).as_posix()): given
        for file, given in zip(whole, files, strict=True)
    }


def list_videos(paths: Sequence[Path]) -> list[Path]:
    """The video files among `paths`, which are as for `find_videos`.

    Raises:
        InputError: a path does not exist, or a folder has no video.
    """
    found: list[Path] = []
    for path in map(as_spelled, paths):
        if path.suffix == ".txt" and path.is_file():
            found += _listed(path)
        elif is_picture_folder(path):
            found.append(path)
        elif path.is_dir():
            files = list(_videos_in(path))
            if not files:
                raise InputError(f"--videos {path}: no video files in this folder{_pictures(path)}")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"--videos {path}: no such file or folder{_hint(path)}")
    return found


def dataset_videos(folder: Path, vids: Collection[str]) -> dict[str, Path]:
    """The files there are of these videos, `<vid>.<any ending of a video>` anywhere in `folder`,
    by vid. A vid may have the ending itself.

    Raises:
        InputError: there is no such folder, or a video appears twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the dataset's videos are expected there")
    names = {composed(vid): vid for vid in vids}
    found: dict[str, Path] = {}
    for file in _videos_in(folder):
        for name in {video_id(file), composed(file.name)} & names.keys():
            _add(found, names[name], file)
    return found


def near_misses(folder: Path, vids: Iterable[str]) -> list[str]:
    """Files in `folder` whose names are nearly those of missing videos, one in words for each."""
    alike = {_alike(video_id(file)): file for file in _files_in(folder)}
    alike |= {_alike(file.name): file for file in _files_in(folder)}
    return [f"{alike[_alike(vid)]} for {vid}" for vid in vids if _alike(vid) in alike]


def as_spelled(path: Path) -> Path:
    """The existing file or folder that `path` names in another Unicode form, else `path`."""
    if path.exists() or not path.parent.is_dir():
        return path
    name = composed(path.name)
    return next((x for x in path.parent.iterdir() if composed(x.name) == name), path)


def _listed(path: Path) -> list[Path]:
    """The files of a list."""
    return [as_spelled(path.parent / line) for line in read_lines(path)]


def _videos_in(folder: Path) -> Iterator[Path]:
    return (
        file
        for file in _files_in(folder)
        if file.suffix.lower() in VIDEO_ENDINGS or is_picture_folder(file)
    )


def _files_in(folder: Path) -> Iterator[Path]:
    """All files in a folder in the order of their names, links followed, a folder entered once; of
    those with a frame rate the folder itself.

    What macOS leaves beside files on other systems' disks, `._<name>`, is passed over.
    """
    entered: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be searched for videos: {error.strerror}")

    for root, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        found = os.stat(root)
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        folders.sort()
        if FRAME_RATE in files:
            folders.clear()
            yield Path(root)
            continue
        yield from (Path(root) / name for name in sorted(files) if not name.startswith("._"))


def _hint(path: Path) -> str:
    """The name on disk of a path that is spelled differently."""
    if not path.parent.is_dir():
        return ""
    alike = [x.name for x in path.parent.iterdir() if _alike(x.stem) == _alike(path.stem)]
    return f"; there is {sorted(alike)[0]}" if alike else ""


def _pictures(folder: Path) -> str:
    """Advice for a folder of pictures that has no frame rate."""
    number = len(picture_files(folder))
    return (
        f"; of its {number:,} pictures {folder / FRAME_RATE} must say how many are shown a second"
        if number
        else ""
    )


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts digits as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts]


def composed(name: str) -> str:
    """A name in the form that ids have (NFC)."""
    return unicodedata.normalize("NFC", name)


def _alike(name: str) -> str:
    """The same for names that a reader may take for one."""
    plain = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in plain if letter.isalnum()) or plain


def _by_id(files: Iterable[Path]) -> dict[str, Path]:
    videos: dict[str, Path] = {}
    for file in files:
        _add(videos, video_id(file), file)
    return videos


def _add(videos: dict[str, Path], vid: str, file: Path) -> None:
    """Enter a video; the same file by another way is no second one."""
    if vid not in videos:
        videos[vid] = file
    elif not (file.exists() and videos[vid].exists() and file.samefile(videos[vid])):
        raise InputError(f"{videos[vid]} and {file} have the same id {vid}; rename or remove one")
