"""The clips of a library's videos in a vector index, which names candidates for a search.

Videos that `sdst index` put there serve a library of the same files. All others are added under the
ids that they have in the library; nothing else is changed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import numpy as np

from sdst.data.store.reader import VideoFeatures, checksum_of
from sdst.data.video_files import video_id
from sdst.errors import InputError
from sdst.grounding.encoder import VideoEncoder
from sdst.indexing.build import exclusive
from sdst.indexing.clip_index import CANDIDATES, ClipTable, IndexedVideo, settings_of
from sdst.serving.library import Video

logger = logging.getLogger(__name__)

FAULTS = InputError, OSError
MERGED = 64  # videos that are added until their clips are merged with those of others


class LibraryIndex:
    """An index that follows a library; threads may share it.

    It is an aid alone: a video that it lacks is a candidate for every sentence.

    Args:
        path: folder or URL; made where there is no index.
        encoder: makes the features of the videos.

    Raises:
        InputError: the index is of other features, another process is changing it, or LanceDB is
            not installed.
    """

    def __init__(self, path: str | Path, encoder: VideoEncoder) -> None:
        self.path = path
        width = encoder.backbone.embed_width
        with exclusive(path):
            self._table = ClipTable.open_or_create(path, settings_of(encoder.meta), width)
            self._table.finish()
            self._indexed = self._table.videos()
        self._ids: dict[str, str] = {}  # in the library, of videos by their ids in the index
        self._change = Lock()
        self._added = 0

    def add(self, video: Video, features: VideoFeatures) -> None:
        """Index a video, unless that was done; where it cannot be, that is logged."""
        checksum = checksum_of(features)
        with self._change:
            for vid in (video.id, video_id(video.path)):
                there = self._indexed.get(vid)
                is_same = there is not None and there.checksum == checksum
                if is_same and self._ids.setdefault(vid, video.id) == video.id:
                    return
            try:
                with exclusive(self.path):
                    self._remove(video.id)
                    self._add(video.id, np.asarray(features.embedding), checksum)
            except FAULTS as error:
                logger.warning("%s is not indexed, and looked into always: %s", video.name, error)

    def remove(self, video: Video) -> None:
        """Take a video out; where that cannot be, its clips stay, and are no candidates."""
        with self._change:
            try:
                with exclusive(self.path):
                    self._remove(video.id)
            except FAULTS as error:
                logger.warning("%s stays in the index: %s", video.name, error)

    def candidates(self, embedding: np.ndarray, videos: Mapping[str, Video]) -> dict[str, Video]:
        """Those of `videos`, by id, to look into for a sentence's embedding `[E]`.

        They are the `CANDIDATES` with the nearest clips, and those that the index lacks.
        """
        ids = {vid: own for vid, own in self._ids.copy().items() if own in videos}
        near = self._table.nearest_videos(embedding, CANDIDATES, among=ids)
        lacking = videos.keys() - ids.values()
        return {own: videos[own] for own in (*(ids[vid] for vid in near), *lacking)}

    def _add(self, vid: str, embedding: np.ndarray, checksum: int) -> None:
        indexed = IndexedVideo(checksum, {})
        self._table.add([(vid, embedding, indexed)])
        self._indexed[vid], self._ids[vid] = indexed, vid
        self._added += 1
        if self._added % MERGED == 0:
            self._table.finish()

    def _remove(self, vid: str) -> None:
        self._ids.pop(vid, None)
        if self._indexed.pop(vid, None) is not None:
            self._table.remove([vid])
