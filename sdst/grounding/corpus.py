"""The videos that a search looks through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdst.data.store.reader import INDEX, FeatureStore
from sdst.data.video_files import by_relative_path, list_videos


@dataclass(frozen=True)
class PartOfStore:
    """Some videos of a store."""

    store: FeatureStore
    vids: Sequence[str]

    def __len__(self) -> int:
        return len(self.vids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.vids)


Corpus = Mapping[str, str | Path] | FeatureStore | PartOfStore


def open_corpus(videos: Corpus | str | Path | Sequence[str | Path]) -> Corpus:
    """Files by their ids, or a store.

    Args:
        videos: one of these; the path of a store or of a folder with videos; or paths of files and
            folders. The ids of files are their paths below the folder that holds all.

    Raises:
        InputError: a path names no video.
    """
    if isinstance(videos, (Mapping, FeatureStore, PartOfStore)):
        return videos
    paths = [Path(x) for x in ([videos] if isinstance(videos, (str, Path)) else videos)]
    if len(paths) == 1 and (paths[0] / INDEX).is_file():
        return FeatureStore(paths[0])
    return by_relative_path(list_videos(paths))
