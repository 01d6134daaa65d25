"""The videos that a search looks through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sdst.data.store.reader import INDEX, FeatureStore
from sdst.data.video_files import by_relative_path, list_videos

Corpus = Mapping[str, str | Path] | FeatureStore


def open_corpus(videos: Corpus | str | Path | Sequence[str | Path]) -> Corpus:
    """Files by their ids, or a store.

    Args:
        videos: one of these; the path of a store or of a folder with videos; or paths of files and
            folders. The ids of files are their paths below the folder that holds all.

    Raises:
        InputError: a path names no video.
    """
    if isinstance(videos, (Mapping, FeatureStore)):
        return videos
    paths = [Path(x) for x in ([videos] if isinstance(videos, (str, Path)) else videos)]
    if len(paths) == 1 and (paths[0] / INDEX).is_file():
        return FeatureStore(paths[0])
    return by_relative_path(list_videos(paths))
