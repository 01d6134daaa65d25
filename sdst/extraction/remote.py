"""Videos in object storage, read through fsspec: `s3://`, `gs://` and its other schemes."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from sdst.data.store.origins import ENDS, READERS, video_origins
from sdst.data.video_files import VIDEO_ENDINGS, composed, find_videos
from sdst.errors import InputError, one_line
from sdst.files.text import read_lines

Place = str | Path  # of a video: a URL or a file


def as_place(text: str) -> Place:
    """A place that a person named: a URL, or a path."""
    return text if is_remote(text) else Path(text)


def is_remote(place: Place) -> bool:
    """Whether this is the URL of an object, and no file."""
    return "://" in str(place)


def find_anywhere(given: Sequence[Place], remote: bool = True) -> dict[str, Place]:
    """The videos among files, folders, lists and URLs, by id.

    Args:
        given: as for `find_videos`; also URLs of videos or of folders of them, in lists as well.
        remote: whether URLs can be read.

    Raises:
        InputError: as `find_videos`; also, a URL cannot be read.
    """
    places = list(_unlisted(given))
    urls = [str(place) for place in places if is_remote(place)]
    if urls and not remote:
        raise InputError(f"--videos {urls[0]}: is a URL; give --ray as well, or a file")
    videos: dict[str, Place] = {}
    local = [Path(place) for place in places if not is_remote(place)]
    for found in (find_videos(local), *map(_remote, urls)):
        for vid, video in found.items():
            if videos.setdefault(vid, video) != video:
                raise InputError(
                    f"{videos[vid]} and {video} have the same id {vid}; rename or remove one"
                )
    return videos


def origins_anywhere(videos: Mapping[str, Place]) -> dict[str, int | None]:
    """`video_origins` for objects as well as files: a copy of a file has its number."""
    files = {vid: Path(place) for vid, place in videos.items() if not is_remote(place)}
    urls = {vid: str(place) for vid, place in videos.items() if is_remote(place)}
    with ThreadPoolExecutor(READERS) as pool:
        remote = dict(zip(urls, pool.map(_origin, urls.values()), strict=True))
    found = {**video_origins(files), **remote}
    return {vid: found[vid] for vid in videos}


@contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """A file to decode: the one that is named, or a copy of the object in this block.

    Raises:
        InputError: the object cannot be read.
    """
    if not is_remote(place):
        yield Path(place)
        return
    url = str(place)
    with tempfile.TemporaryDirectory(prefix="sdst-") as folder:
        copy = Path(folder, PurePosixPath(url).name)
        with _speaking_of(url):
            files, path = _opened(url)
            with files.open(path, "rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
        yield copy


def _unlisted(given: Sequence[Place]) -> Iterator[Place]:
    """The places given; of lists with URLs, their lines."""
    for place in given:
        path = Path(place)
        listed = not is_remote(place) and path.suffix == ".txt" and path.is_file()
        lines = read_lines(path) if listed else []
        if not any(map(is_remote, lines)):
            yield place
            continue
        for line in lines:
            yield line if is_remote(line) else path.parent / line


def _remote(url: str) -> dict[str, Place]:
    """The video at a URL, or those in the folder there."""
    with _speaking_of(url):
        files, path = _opened(url)
        if files.isfile(path):
            return {_id(path): url}
        names = sorted(
            name
            for name in (files.find(path) if files.isdir(path) else ())
            if PurePosixPath(name).suffix.lower() in VIDEO_ENDINGS
        )
    if not names:
        raise InputError(f"--videos {url}: no video there; expected one, or a folder of them")
    videos: dict[str, Place] = {}
    for name in names:
        if _id(name) in videos:
            raise InputError(
                f"{videos[_id(name)]} and {name} have the same id; rename or remove one"
            )
        videos[_id(name)] = files.unstrip_protocol(name)
    return videos


def _origin(url: str) -> int | None:
    """As `sdst.data.store.origins` makes of a file; None of what cannot be read."""
    try:
        files, path = _opened(url)
        size = files.size(path)
        found = zlib.crc32(str(size).encode())
        for start in (0, max(size - ENDS, 0)):
            found = zlib.crc32(files.cat_file(path, start, min(start + ENDS, size)), found)
        return found
    except Exception:  # whatever the storage's own library raises
        return None


def _opened(url: str) -> tuple[Any, str]:
    import fsspec

    return fsspec.core.url_to_fs(url)


@contextmanager
def _speaking_of(url: str) -> Iterator[None]:
    """Make what the storage's own library raises an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        raise InputError(f"{url}: {one_line(error)}; pip install what is missing") from None
    except Exception as error:  # each storage has its own
        raise InputError(f"{url}: cannot be read ({one_line(error)})") from error


def _id(path: str) -> str:
    return composed(PurePosixPath(path).stem)
