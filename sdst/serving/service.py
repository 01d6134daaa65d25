"""A grounder, a library and what works for them in the background: all that requests share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from sdst.grounding.answers import Grounding
from sdst.grounding.export import FORMATS
from sdst.grounding.grounder import Grounder
from sdst.grounding.search import Found
from sdst.grounding.zero_shot_grounder import ZeroShotGrounder
from sdst.indexing.clip_index import CANDIDATES
from sdst.serving.batching import Batcher
from sdst.serving.jobs import Encodings
from sdst.serving.library import Library, Video
from sdst.serving.library_index import LibraryIndex
from sdst.serving.metrics import Metrics
from sdst.serving.refusals import BUSY, CONFLICT, UNPROCESSABLE, Refused

QUERIES_AT_ONCE = 64  # of a batch
QUERIES_WAITING = 1024
VIDEOS_WAITING = 32
UPLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class SearchAnswer:
    """The best moments for one sentence.

    Args:
        searched: videos that were looked into.
        encoded: videos that are encoded; those that an index rules out are not looked into.
        skipped: a line for each video that cannot be read.
    """

    found: list[Found]
    searched: int
    encoded: int
    skipped: list[str]


class Service:
    """Answers about a library's videos; threads may share it.

    Args:
        grounder: the model.
        library: the videos; all of them are encoded, one after the other.
        model: its name, for people.
        index: names the videos that a search looks into; None: all of them.
    """

    def __init__(
        self,
        grounder: Grounder | ZeroShotGrounder,
        library: Library,
        model: str,
        index: LibraryIndex | None = None,
    ) -> None:
        self.grounder, self.library, self.model, self.index = grounder, library, model, index
        self.metrics = Metrics()
        self.encodings = Encodings(self._encode, VIDEOS_WAITING)
        self.metrics.watch(library, self.encodings)
        self._questions: Batcher[tuple[str, int, float], str, Grounding] = Batcher(
            self._ground,
            QUERIES_AT_ONCE,
            QUERIES_WAITING,
            seen=self.metrics.batches.labels("ground").observe,
        )
        self._searches: Batcher[tuple[int, float], str, SearchAnswer] = Batcher(
            self._search,
            QUERIES_AT_ONCE,
            QUERIES_WAITING,
            seen=self.metrics.batches.labels("search").observe,
        )
        self._uploads = 0
        self._change = Lock()
        for video in library.videos():
            self.encodings.add(video)

    def ground(
        self, vid: str, queries: Sequence[str], top: int, min_presence: float = 0.0
    ) -> list[Future[Grounding]]:
        """Ask about one video.

        Raises:
            Refused: there is no such video, it is not encoded yet, too many questions wait, or a
                presence is asked of a model that does not know it.
        """
        self._check_presence(min_presence)
        video = self.library.find(vid)
        job = self.encodings.of(vid)
        if job.state == "failed":
            raise Refused(CONFLICT, job.error)
        if job.state != "ready":
            raise Refused(
                CONFLICT,
                f"{video.name}: is being encoded ({job.progress:.0%}); ask again in a while",
            )
        return self._submit_all(partial(self._questions.submit, (vid, top, min_presence)), queries)

    def search(
        self, queries: Sequence[str], top: int, min_presence: float = 0.0
    ) -> list[Future[SearchAnswer]]:
        """Ask about all videos that are encoded.

        Raises:
            Refused: none is, too many questions wait, or as by `ground`.
        """
        self._check_presence(min_presence)
        if not self._encoded():
            raise Refused(CONFLICT, "no video of the library is encoded yet; ask again in a while")
        return self._submit_all(partial(self._searches.submit, (top, min_presence)), queries)

    def about(self) -> dict[str, Any]:
        """The model and the limits, as `sdst.serving.schemas.About` has them."""
        config = getattr(self.grounder, "config", None)
        return {
            "model": self.model,
            "device": str(self.grounder.backbone.device),
            "demo": config is not None and config.data.dataset == "demo",
            "clip_length": self.grounder.encoder.clip_length,
            "presence": self._knows_presence,
            "formats": [ending.removeprefix(".") for ending in FORMATS],
            "max_upload": self.library.max_bytes,
        }

    def begin_upload(self) -> None:
        """Take the place of an upload, which `end_upload` gives back.

        Raises:
            Refused: too many are being received, or wait to be encoded.
        """
        with self._change:
            if self._uploads >= UPLOADS_AT_ONCE:
                raise Refused(BUSY, f"{self._uploads} uploads are being received; try again later")
            self.encodings.check_room(self._uploads)
            self._uploads += 1

    def end_upload(self) -> None:
        """See `begin_upload`."""
        with self._change:
            self._uploads -= 1

    def remove(self, vid: str) -> None:
        """Delete a video, its job and its features.

        Raises:
            Refused: there is none, or it is only read here.
        """
        video = self.library.find(vid)
        if video.removable:
            self.encodings.cancel(vid)
            with suppress(OSError):  # its file may have been deleted by hand
                self.grounder.encoder.forget(video.path)
        self.library.remove(vid)
        if self.index is not None:
            self.index.remove(video)

    def close(self) -> None:
        """Answer what waits, end the threads and let the library go."""
        self.encodings.stop()
        self._questions.stop()
        self._searches.stop()
        self.library.close()

    def _encode(self, video: Video, report: Callable[[float], None]) -> None:
        features = self.grounder.encoder.encode(video.path, report)
        if self.index is not None:
            self.index.add(video, features)
            if video.id not in self.library:  # it was removed meanwhile
                self.index.remove(video)

    def _submit_all(self, submit, queries: Sequence[str]) -> list[Future]:
        futures: list[Future] = []
        try:
            for query in queries:
                futures.append(submit(query))
        except Refused:
            for future in futures:
                future.cancel()
            raise
        return futures

    def _encoded(self) -> dict[str, Video]:
        videos = self.library.videos()
        return {video.id: video for video in videos if self.encodings.of(video.id).state == "ready"}

    @property
    def _knows_presence(self) -> bool:
        return isinstance(self.grounder, Grounder) and self.grounder.knows_presence

    def _check_presence(self, least: float) -> None:
        if least > 0 and not self._knows_presence:
            raise Refused(
                UNPROCESSABLE,
                f"min_presence {least:g}: this model does not tell whether a video has what is "
                "asked for; leave it out",
            )

    def _ground(self, key: tuple[str, int, float], queries: list[str]) -> list[Grounding]:
        vid, top, least = key
        return self.grounder.ground(self.library.find(vid).path, queries, top, **_if_any(least))

    def _search(self, key: tuple[int, float], queries: list[str]) -> list[SearchAnswer]:
        videos = self._encoded()
        if self.index is None or len(videos) <= CANDIDATES:
            return self._search_in(videos, len(videos), key, queries)
        answers: list[SearchAnswer] = []
        for query, text in zip(queries, self.grounder.backbone.encode_text(queries), strict=True):
            near = self.index.candidates(text.embedding.cpu().numpy(), videos)
            answers += self._search_in(near, len(videos), key, [query])
        return answers

    def _search_in(
        self, videos: Mapping[str, Video], encoded: int, key: tuple[int, float], queries: list[str]
    ) -> list[SearchAnswer]:
        top, least = key
        skipped: list[str] = []
        paths: dict[str, str | Path] = {vid: video.path for vid, video in videos.items()}
        answers = self.grounder.search(paths, queries, top, skipped, **_if_any(least))
        searched = len(videos) - len(skipped)
        return [SearchAnswer(found, searched, encoded, skipped) for found in answers]


def _if_any(least: float) -> dict[str, Any]:
    """The least presence as an argument, which a backbone alone does not take."""
    return {"min_presence": least} if least > 0 else {}
