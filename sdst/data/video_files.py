"""Which files are videos, by their ids: the file name without its ending."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from sdst.errors import InputError

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


def find_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """The videos among `paths`, by id.

    Args:
        paths: video files, folders with such anywhere in them, and lists (`.txt`) with a path on
            every line, beside the list where it is relative.

    Raises:
        InputError: a path does not exist, a folder has no video, or two have one id.
    """
    found: list[Path] = []
    for path in paths:
        if path.suffix == ".txt" and path.is_file():
            lines = map(str.strip, path.read_text().splitlines())
            found += [path.parent / line for line in lines if line]
        elif path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if _is_video(file)]
            if not files:
                raise InputError(f"--videos {path}: no video files in this folder")
            found += files
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"--videos {path}: no such file or folder")
    return _by_id(found)


def dataset_videos(folder: Path, vids: Collection[str]) -> dict[str, Path]:
    """The files there are of these videos, `<vid>.<any ending of a video>` in `folder`, by id.

    Raises:
        InputError: there is no such folder, or a video is there twice.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the dataset's videos are expected there")
    return _by_id(f for f in sorted(folder.iterdir()) if f.stem in vids and _is_video(f))


def _is_video(file: Path) -> bool:
    return file.suffix.lower() in VIDEO_ENDINGS


def _by_id(files: Iterable[Path]) -> dict[str, Path]:
    videos: dict[str, Path] = {}
    for file in files:
        if file.stem in videos:
            raise InputError(
                f"{videos[file.stem]} and {file} have the same id {file.stem}; rename or remove one"
            )
        videos[file.stem] = file
    return videos
