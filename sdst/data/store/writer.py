"""Writes a feature store (`sdst.data.store.reader`), all at once or not at all, and lets it grow.

Every entry written is recorded in a journal; the index is put in place at the end. A writer
that was killed is resumed after the last entry of its journal. A finished store grows by the same
means: behind what its index knows, until a new index takes the place of the old. Not a byte that an
index knows is changed, so readers are left alone.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from sdst.data.store.journal import JOURNAL, PIECE, Entry, Journal
from sdst.data.store.origins import lacking
from sdst.data.store.quantization import quantize
from sdst.data.store.reader import DTYPES, INDEX, SCALES, FeatureStore, number_types
from sdst.errors import InputError, name_file, naming
from sdst.files.publish import (
    is_locked,
    lock,
    own_file,
    publish,
    remove_unlocked,
    replace_text,
    scratch_folder,
)
from sdst.files.sealed import seal

CLIPS_AT_ONCE = 256  # are copied


class NotWritable(InputError):
    """A store that cannot be written to."""


class StoreInUse(NotWritable):
    """A store that another process is writing."""


class FeatureWriter:
    """Writes a store; a context manager that publishes it on a clean exit.

    Args:
        path: the store's folder; without `resume` it must not exist yet.
        meta: kept with the store, JSON types only; by convention `backbone`, `fingerprint`,
            `clip_length`, `frames_per_clip`.
        dtype: `float16`, `float32` or `int8`, of a video's tokens; in a store of int8 all else is
            float16.
        resume: what was added stays when the writer does not get to the end, were it killed, and
            the next one with `resume` continues behind it, as it does behind a finished store
            (`video_ids`, `query_ids` say where). Else nothing is left.

    Attributes:
        grows: whether a finished store is at `path`.

    Raises:
        InputError: something else is at `path`, or what was made with another `meta` or `dtype`.
        NotWritable: on entering, this process may not write there.
        StoreInUse: on entering, another process does.
    """

    def __init__(
        self, path: str | Path, meta: dict, dtype: str = "float16", resume: bool = False
    ) -> None:
        self.path = Path(path)
        if dtype not in DTYPES:
            raise InputError(f"feature type {dtype!r}: expected one of {', '.join(DTYPES)}")
        self._types = number_types(dtype)
        self._journal = Journal(meta, dtype, self._types)
        self._resume, self.grows = resume, self.path.exists()
        if self.grows and not resume:
            raise InputError(f"{path}: exists already; remove it or choose another folder")
        if self.grows and not (self.path / INDEX).is_file():
            raise InputError(f"{path}: exists and is no feature store; choose another folder")
        if self.grows:
            self._journal.read_index(self.path)

    def __enter__(self) -> FeatureWriter:
        with ExitStack() as opened:
            self._building = self._place(opened)
            self._lock(opened.enter_context(self._open("video_tokens")))
            if self.grows:
                self._journal.read_index(self.path)  # which may have grown meanwhile
                FeatureStore(self.path).verify()
            lines = opened.enter_context(own_file(self._building / JOURNAL, append=True))
            self._journal.open(lines, self._building)
            self._files = {name: opened.enter_context(self._open(name)) for name in self._types}
            for name, size in self._journal.take_up(self._files).items():
                self._files[name].truncate(size)
                self._files[name].seek(size)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            name_file(error, self.path)
        with naming(self.path), self._opened:
            if kind is None:
                self._publish()

    @property
    def video_ids(self) -> list[str]:
        """The videos so far: those of a finished store, once entered of an interrupted writer."""
        return list(self._journal.current("video"))

    @property
    def query_ids(self) -> list[int | str]:
        """The queries so far, likewise."""
        return list(self._journal.current("query"))

    @property
    def video_origins(self) -> dict[str, int | None]:
        """The origins of the videos so far."""
        return {vid: entry.origin for vid, entry in self._journal.current("video").items()}

    @property
    def query_origins(self) -> dict[int | str, int | None]:
        """The origins of the queries so far."""
        return {qid: entry.origin for qid, entry in self._journal.current("query").items()}

    @property
    def is_interrupted(self) -> bool:
        """Whether a process was killed while it let this finished store grow."""
        left = (self.path / JOURNAL).is_file() and os.access(self.path, os.W_OK)
        return left and not is_locked(self.path / "video_tokens.bin")

    def lacks(
        self, videos: Mapping[str, int | None], queries: Mapping[int | str, int | None]
    ) -> bool:
        """Whether one of these, given with their origins, is not there so far."""
        return bool(lacking(videos, self.video_origins) or lacking(queries, self.query_origins))

    def add_video(
        self, vid: str, duration: float, tokens: np.ndarray, embedding: np.ndarray | None = None
    ) -> None:
        """Append a video: tokens `[K, L, P, Dv]` in floats, embedding `[L, E]`, seconds."""
        video = self.begin_video(vid, clips=tokens.shape[1])
        video.write(tokens, embedding)
        video.finish(duration)

    def begin_video(self, vid: str, clips: int, origin: int | None = None) -> VideoWriter:
        """Append a video of about `clips` clips, some at a time; one video at once.

        The features of an hour of video need not be in memory together. The video takes the place
        of an existing one of another origin (`sdst.data.store.origins`).
        """
        self._refuse_twice("video", vid, origin)
        return VideoWriter(self, vid, clips, origin)

    def add_query(
        self,
        qid: int | str,
        tokens: np.ndarray,
        embedding: np.ndarray | None = None,
        origin: int | None = None,
    ) -> None:
        """Append a sentence: tokens `[K, N, Dt]`, embedding `[E]`.

        It takes the place of an existing one of another origin (`sdst.data.store.origins`).
        """
        self._refuse_twice("query", qid, origin)
        layers, length, width = tokens.shape
        self._expect(f"query {qid}", layers=layers, text_width=width, embed_width=_width(embedding))
        checksum = self._write("query", f"query {qid}", tokens, embedding)
        self._journal.add("query", Entry([qid, length, checksum], origin))

    def copy_video(self, store: FeatureStore, vid: str) -> None:
        """Append a video of another store, with all that it says of it; some clips at a time."""
        video = store.video(vid)
        clips = video.tokens.shape[1]
        entry = self.begin_video(vid, clips, store.video_origins[vid])
        for first in range(0, clips, CLIPS_AT_ONCE):
            some = slice(first, first + CLIPS_AT_ONCE)
            tokens = np.asarray(video.tokens[:, some])
            scales = None if video.scales is None else np.asarray(video.scales[:, some])
            if scales is not None and SCALES not in self._types:
                tokens, scales = tokens * scales[..., None], None
            embedding = None if video.embedding is None else np.asarray(video.embedding[some])
            entry.write(tokens, embedding, scales)
        entry.finish(video.duration, store.faults.get(vid, []))

    def copy_query(self, store: FeatureStore, qid: int | str) -> None:
        """Append a query of another store."""
        query = store.query(qid)
        embedding = None if query.embedding is None else np.asarray(query.embedding)
        self.add_query(qid, np.asarray(query.tokens), embedding, store.query_origins[qid])

    def _finish_video(self, entry: Entry) -> None:
        self._journal.add("video", entry)

    def _refuse_twice(self, kind: str, key: int | str, origin: int | None) -> None:
        there = self._journal.current(kind).get(key)
        if there is not None and not lacking({key: origin}, {key: there.origin}):
            raise InputError(f"{self.path}: {kind} {key} is given twice")

    def _expect(self, what: str, **shapes: int) -> None:
        for name, value in shapes.items():
            known = self._journal.shapes.setdefault(name, value)
            if value != known:
                raise InputError(
                    f"{self.path}: {what} has {name} {value}, those before it {known}; "
                    "one store holds the features of one backbone"
                )

    def _write(self, kind: str, what: str, tokens: np.ndarray, embedding: np.ndarray | None) -> int:
        """Append to the files of `kind`; the checksum of what was written."""
        checksum = 0
        for part, values in (("tokens", tokens), ("embeddings", embedding)):
            if values is None:
                continue
            name = f"{kind}_{part}"
            stored = self._as_stored(name, values, what)
            self._files[name].write(stored.data)
            self._files[name].flush()
            checksum = zlib.crc32(stored.data, checksum)
        return checksum

    def _as_stored(self, name: str, values: np.ndarray, what: str) -> np.ndarray:
        """`values` in the dtype of the file `name`."""
        with np.errstate(over="ignore"):  # what does not fit becomes inf, which is refused below
            stored = np.ascontiguousarray(values, dtype=self._types[name])
        if not np.isfinite(stored).all():
            raise InputError(
                f"{self.path}: {what} has {name} that are NaN or do not fit "
                f"{self._types[name]}; check the backbone, or store float32"
            )
        return stored

    def _place(self, opened: ExitStack) -> Path:
        """The folder that is written to."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        if self.grows:
            if not os.access(self.path, os.W_OK):
                raise NotWritable(f"{self.path}: lacks features, and may not be written to")
            remove_unlocked(partial, partial / "video_tokens.bin")
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self._resume:
            return opened.enter_context(scratch_folder(self.path))
        if partial.is_symlink():  # planted: what is behind it belongs to somebody else
            raise InputError(f"{partial}: is a symbolic link, which is not written through")
        partial.mkdir(exist_ok=True)
        return partial

    def _open(self, name: str) -> BinaryIO:
        """A file of features, to read and write; made where it is missing."""
        return own_file(self._building / f"{name}.bin")

    def _lock(self, file: BinaryIO) -> None:
        """Until `file` is closed, which is one that stays when the store is published."""
        if lock(file.fileno()) is False:
            raise StoreInUse(f"{self.path}: another process is writing this store")

    def _publish(self) -> None:
        for file in self._files.values():
            os.fsync(file.fileno())  # the index must not exist before the data it names
        if self._journal.grew:
            replace_text(self._building / INDEX, seal(self._journal.index()))
        if not self.grows:
            try:
                publish(self._building, self.path)
            except OSError:
                # Another process was faster with the same features: its store stands.
                if not (self.path / INDEX).is_file():
                    raise
                shutil.rmtree(self._building, ignore_errors=True)
                return
        (self.path / JOURNAL).unlink()


class VideoWriter:
    """Writes the features of one video into a store as they come; `FeatureWriter.begin_video`.

    The store keeps a layer's clips together, so every piece goes to its K places.
    """

    def __init__(self, store: FeatureWriter, vid: str, clips: int, origin: int | None) -> None:
        self._store, self._vid, self._room, self._origin = store, vid, clips, origin
        self._clips = 0
        names = [name for name in store._types if name.startswith("video")]
        self._files = {name: store._files[name].fileno() for name in names}
        self._begin = {name: os.fstat(file).st_size for name, file in self._files.items()}
        self._rows: dict[str, tuple[int, int]] = {}  # layers, bytes of a clip in a layer

    def write(
        self,
        tokens: np.ndarray,
        embedding: np.ndarray | None = None,
        scales: np.ndarray | None = None,
    ) -> None:
        """Append clips: tokens `[K, l, P, Dv]`, embedding `[l, E]`; int8 with scales `[K, l, P]`.

        A store of int8 makes integers of floats.
        """
        layers, clips, per_frame, width = tokens.shape
        what = f"video {self._vid}"
        self._store._expect(
            what,
            layers=layers,
            tokens_per_frame=per_frame,
            video_width=width,
            embed_width=_width(embedding),
        )
        if self._clips + clips > self._room:
            self._make_room(max(self._clips + clips, 2 * self._room))
        if SCALES in self._files and scales is None:
            tokens, scales = _quantized(tokens, f"{self._store.path}: {what}")
        values = {"video_tokens": tokens, SCALES: scales, "video_embeddings": embedding}
        for name, given in values.items():
            if given is None:
                continue
            stored = self._store._as_stored(name, given, what)
            by_layer = stored[None] if name == "video_embeddings" else stored
            row = by_layer[0, 0].nbytes
            self._rows[name] = len(by_layer), row
            for layer, piece in enumerate(by_layer):
                place = self._begin[name] + (layer * self._room + self._clips) * row
                _write_at(self._files[name], piece.data.cast("B"), place)
        self._clips += clips

    def _make_room(self, room: int) -> None:
        """Move the layers apart, the last one first, for a video that is longer than begun."""
        for part, (layers, row) in self._rows.items():
            file, begin, size = self._files[part], self._begin[part], self._clips * row
            for layer in range(layers - 1, 0, -1):
                source, target = begin + layer * self._room * row, begin + layer * room * row
                for offset in reversed(range(0, size, PIECE)):
                    piece = os.pread(file, min(PIECE, size - offset), source + offset)
                    _write_at(file, piece, target + offset)
        self._room = room

    def finish(self, duration: float, faults: Sequence[str] = ()) -> None:
        """The video is complete, `duration` seconds; layers move up if it is shorter than begun.

        Args:
            faults: of its file, kept with the store.
        """
        if not self._clips:
            raise ValueError(f"video {self._vid} has no clip")
        checksum = 0
        for part, (layers, row) in self._rows.items():
            file, begin, size = self._files[part], self._begin[part], self._clips * row
            for layer in range(layers):
                source, target = begin + layer * self._room * row, begin + layer * size
                for piece, offset in _pieces(file, source, size):
                    if target != source:
                        _write_at(file, piece, target + offset)
                    checksum = zlib.crc32(piece, checksum)
            os.ftruncate(file, begin + layers * size)
        fields = [self._vid, self._clips, float(duration), checksum]
        self._store._finish_video(Entry(fields, self._origin, faults))

    def abandon(self) -> None:
        """Forget what was written of the video."""
        for part, file in self._files.items():
            os.ftruncate(file, self._begin[part])


def _write_at(file: int, data: memoryview | bytes, place: int) -> None:
    """Write all of `data` at a place of a file."""
    data = memoryview(data)
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written


def _pieces(file: int, begin: int, size: int) -> Iterator[tuple[bytes, int]]:
    """Parts of a file and where each begins, counted from `begin`."""
    for offset in range(0, size, PIECE):
        yield os.pread(file, min(PIECE, size - offset), begin + offset), offset


def _quantized(tokens: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [..., D] in floats as int8 and scales [...]."""
    if not np.isfinite(tokens).all():
        raise InputError(f"{what} has video_tokens that are NaN or infinite; check the backbone")
    return quantize(tokens)


def _width(embedding: np.ndarray | None) -> int:
    return 0 if embedding is None else embedding.shape[-1]
