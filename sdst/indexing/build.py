"""Bringing an index up to date with a feature store: what is new or changed, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdst.data.store.reader import FeatureStore
from sdst.errors import InputError
from sdst.files.publish import lock, own_file
from sdst.indexing.clip_index import ClipTable, IndexedVideo, settings_of
from sdst.indexing.metadata import Fields, matched, types_of, without_ending
from sdst.terminal.verbosity import progress_bar

CLIPS_AT_ONCE = 50_000  # in one commit


@dataclass
class Changes:
    """The changes of an update to an index.

    Attributes:
        added, replaced, removed, unchanged: how many videos.
        unknown: videos of the metadata that are not in the index.
    """

    added: int = 0
    replaced: int = 0
    removed: int = 0
    unchanged: int = 0
    unknown: tuple[str, ...] = ()


def update_index(
    path: str | Path,
    store: FeatureStore,
    vids: Iterable[str] | None = None,
    metadata: Mapping[str, Fields] | None = None,
    progress: bool = True,
) -> Changes:
    """Index the videos of a store, those that the index has already left alone.

    A video is indexed again where its features or its fields have changed. The update may be killed
    at any moment: every video is in the index whole or not at all, and the next update does what
    is missing.

    Args:
        path: a folder, or a URL of object storage; made where there is no index.
        store: encoded by a backbone that sentences share a space with.
        vids: the videos to index; None: all of the store, and only those, so that others are
            removed.
        metadata: fields of videos (`sdst.indexing.metadata`); None leaves them as they are.
        progress: show a bar.

    Raises:
        InputError: the store has no embeddings, the index is of other features, or another process
            is changing it.
    """
    width = store.shapes.get("embed_width", 0)
    if not width:
        raise InputError(
            f"{store.path}: has no embeddings in a space shared with sentences, which an index is "
            "made of; extract the videos with a backbone of both, such as an open_clip model"
        )
    with exclusive(path):
        table = ClipTable.open_or_create(path, settings_of(store.meta), width)
        there = table.videos()
        chosen = store.video_ids if vids is None else [vid for vid in vids if vid in store]
        fields = matched(metadata or {}, {*chosen, *there})
        table.add_fields(types_of(fields.values()))
        new = {
            vid: video
            for vid in dict.fromkeys((*chosen, *(vid for vid in fields if vid in store)))
            if (video := _video(store, vid, there.get(vid), fields.get(vid))) != there.get(vid)
        }
        gone = [] if vids is not None else [vid for vid in there if vid not in store]
        replaced = [vid for vid in new if vid in there]
        table.remove([*gone, *replaced])
        with progress_bar(total=len(new), desc="index", unit="video", disable=not progress) as bar:
            for batch in _batches(store, new):
                table.add(batch)
                bar.update(len(batch))
        table.finish()
    known = {*chosen, *there}
    unknown = [name for name in metadata or {} if known.isdisjoint((name, without_ending(name)))]
    return Changes(
        added=len(new) - len(replaced),
        replaced=len(replaced),
        removed=len(gone),
        unchanged=len(there) - len(replaced) - len(gone),
        unknown=tuple(unknown),
    )


def remove_videos(path: str | Path, vids: Iterable[str]) -> int:
    """Take videos out of an index; their features stay in the store.

    Returns:
        How many were removed.

    Raises:
        InputError: one of them is not there, and nothing is removed.
    """
    vids = list(dict.fromkeys(vids))
    with exclusive(path):
        table = ClipTable.open(path, most=None)
        there = table.videos()
        if missing := [vid for vid in vids if vid not in there]:
            raise InputError(
                f"--remove {missing[0]}: no such video in {path}, which has {len(there):,}"
            )
        table.remove(vids)
        table.finish()
    return len(vids)


@contextmanager
def exclusive(path: str | Path) -> Iterator[None]:
    """Keep other processes from changing the index in this folder; object storage has no locks.

    Raises:
        InputError: one of them is changing it.
    """
    if "://" in str(path):
        yield
        return
    Path(path).mkdir(parents=True, exist_ok=True)
    with own_file(Path(path, ".lock"), append=True) as file:
        if lock(file.fileno()) is False:
            raise InputError(f"{path}: another process is changing this index; try again later")
        yield


def _video(
    store: FeatureStore, vid: str, there: IndexedVideo | None, fields: Fields | None
) -> IndexedVideo:
    """How the index should have a video of the store; fields it knows are kept."""
    kept = there.fields if there is not None else {}
    return IndexedVideo(store.checksum(vid), {**kept, **(fields or {})})


def _batches(
    store: FeatureStore, videos: Mapping[str, IndexedVideo]
) -> Iterator[list[tuple[str, np.ndarray, IndexedVideo]]]:
    """Videos with their embeddings, as many as make a commit."""
    batch, clips = [], 0
    for vid, video in videos.items():
        embedding = store.video(vid).embedding
        batch.append((vid, np.asarray(embedding), video))
        clips += len(batch[-1][1])
        if clips >= CLIPS_AT_ONCE:
            yield batch
            batch, clips = [], 0
    if batch:
        yield batch
