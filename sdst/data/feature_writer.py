"""Writes a feature store (`sdst.data.features`): all at once or not at all, and after a kill on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from sdst.data.features import DTYPES, FORMAT, INDEX, SCALES, VERSION, number_types, row_widths
from sdst.errors import InputError
from sdst.kernels import quantize

JOURNAL = "journal.jsonl"
PIECE = 2**22  # bytes read at once when a video is completed


class FeatureWriter:
    """Writes a store; a context manager that publishes it on a clean exit.

    Args:
        path: the store's folder; must not exist yet.
        meta: kept with the store, JSON types only; by convention `backbone`, `fingerprint`,
            `clip_length`, `frames_per_clip`.
        dtype: `float16`, `float32` or `int8`, of a video's tokens; in a store of int8 all else is
            float16.
        resume: what was added stays when the writer does not get to the end, were it killed, and
            the next one with `resume` goes on behind it (`video_ids`, `query_ids` say where). Else
            nothing is left.
    """

    def __init__(
        self, path: str | Path, meta: dict, dtype: str = "float16", resume: bool = False
    ) -> None:
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"{path}: exists already; remove it or choose another folder")
        if dtype not in DTYPES:
            raise InputError(f"feature type {dtype!r}: expected one of {', '.join(DTYPES)}")
        self._types = number_types(dtype)
        self._header = {"format": FORMAT, "version": VERSION, "dtype": dtype, "meta": meta}
        self._resume = resume
        self._shapes: dict[str, int] = {}
        self._videos: dict[str, tuple[int, float, int]] = {}
        self.faults: list[str] = []  # of the videos' files, a line each
        self._queries: dict[int | str, tuple[int, int]] = {}

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._resume:
            self._building = self.path.with_name(f".{self.path.name}.partial")
            self._building.mkdir(exist_ok=True)
        else:
            prefix = f".{self.path.name}-"
            self._building = Path(tempfile.mkdtemp(prefix=prefix, dir=self.path.parent))
        self._journal = (self._building / JOURNAL).open("ab+")
        try:
            self._take_up()
        except BaseException:
            self._journal.close()
            raise
        self._files = {name: (self._building / f"{name}.bin").open("r+b") for name in self._types}
        for file in self._files.values():
            file.seek(0, os.SEEK_END)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in (*self._files.values(), self._journal):
            file.close()
        try:
            if kind is None:
                self._publish()
        finally:
            if kind is None or not self._resume:
                shutil.rmtree(self._building, ignore_errors=True)

    @property
    def video_ids(self) -> list[str]:
        """The videos added so far, those of an interrupted writer included."""
        return list(self._videos)

    @property
    def query_ids(self) -> list[int | str]:
        """The queries added so far, those of an interrupted writer included."""
        return list(self._queries)

    def add_video(
        self, vid: str, duration: float, tokens: np.ndarray, embedding: np.ndarray | None = None
    ) -> None:
        """Append a video: tokens `[K, L, P, Dv]` in floats, embedding `[L, E]`, seconds."""
        video = self.begin_video(vid, clips=tokens.shape[1])
        video.write(tokens, embedding)
        video.finish(duration)

    def begin_video(self, vid: str, clips: int) -> VideoWriter:
        """Append a video of at most `clips` clips, some at a time; one video at once.

        The features of an hour of video need not be in memory together.
        """
        if vid in self._videos:
            raise InputError(f"{self.path}: video {vid} is given twice")
        return VideoWriter(self, vid, clips)

    def add_query(
        self, qid: int | str, tokens: np.ndarray, embedding: np.ndarray | None = None
    ) -> None:
        """Append a sentence: tokens `[K, N, Dt]`, embedding `[E]`."""
        if qid in self._queries:
            raise InputError(f"{self.path}: query {qid} is given twice")
        layers, length, width = tokens.shape
        self._expect(f"query {qid}", layers=layers, text_width=width, embed_width=_width(embedding))
        checksum = self._write("query", f"query {qid}", tokens, embedding)
        self._queries[qid] = length, checksum
        self._note("query", qid, *self._queries[qid])

    def _finish_video(self, vid: str, entry: tuple[int, float, int], faults: Sequence[str]) -> None:
        self._videos[vid] = entry
        self.faults += faults
        self._note("video", vid, *entry, *([list(faults)] if faults else []))

    def _expect(self, what: str, **shapes: int) -> None:
        for name, value in shapes.items():
            known = self._shapes.setdefault(name, value)
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
        """`values` in the number type of the file `name`."""
        with np.errstate(over="ignore"):  # what does not fit becomes inf, which is refused below
            stored = np.ascontiguousarray(values, dtype=self._types[name])
        if not np.isfinite(stored).all():
            raise InputError(
                f"{self.path}: {what} has {name} that are NaN or do not fit "
                f"{self._types[name]}; check the backbone, or store float32"
            )
        return stored

    def _note(self, *entry: object) -> None:
        """Tell the journal what the files hold now; only what it tells is there after a kill."""
        self._journal.write(json.dumps([self._shapes, *entry]).encode() + b"\n")
        self._journal.flush()

    def _take_up(self) -> None:
        """Go on behind the last entry that an interrupted writer wrote completely."""
        try:
            fcntl.flock(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{self.path}: another process is writing this store") from None
        self._journal.seek(0)
        header = self._journal.readline()
        if not header.endswith(b"\n"):
            self._journal.truncate(0)
            self._journal.write(json.dumps(self._header).encode() + b"\n")
            self._journal.flush()
        elif json.loads(header) != self._header:
            raise InputError(
                f"{self._building}: an unfinished store of other features or another number type; "
                "remove it, or finish it with the settings it was begun with"
            )
        kept = dict.fromkeys(self._types, 0)
        good = self._journal.tell()
        while (line := self._journal.readline()).endswith(b"\n"):
            shapes, kind, key, length, *rest = json.loads(line)
            sizes = _entry_bytes(shapes, kind, length, self._types)
            after = {name: kept[name] + sizes.get(name, 0) for name in self._types}
            if any(size > _size(self._building / f"{name}.bin") for name, size in after.items()):
                break  # the machine went down before the file was on the disk
            if rest and isinstance(rest[-1], list):
                self.faults += rest.pop()
            (self._videos if kind == "video" else self._queries)[key] = (length, *rest)
            self._shapes, kept, good = shapes, after, self._journal.tell()
        self._journal.truncate(good)
        for name, size in kept.items():
            with (self._building / f"{name}.bin").open("ab") as file:
                file.truncate(size)

    def _publish(self) -> None:
        index = {
            **self._header,
            "shapes": self._shapes,
            "videos": [[vid, *entry] for vid, entry in self._videos.items()],
            "queries": [[qid, *entry] for qid, entry in self._queries.items()],
        }
        (self._building / INDEX).write_text(json.dumps(index))
        (self._building / JOURNAL).unlink()
        self._building.chmod(0o755)
        try:
            self._building.rename(self.path)
        except OSError:
            # Another process was faster with the same features: its store stands.
            if not (self.path / INDEX).is_file():
                raise


class VideoWriter:
    """Writes the features of one video into a store as they come; `FeatureWriter.begin_video`.

    The store keeps a layer's clips together, so every piece goes to its K places.
    """

    def __init__(self, store: FeatureWriter, vid: str, clips: int) -> None:
        self._store, self._vid, self._room = store, vid, clips
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
            raise ValueError(f"{what} was begun with {self._room} clips; more were written")
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

    def finish(self, duration: float, faults: Sequence[str] = ()) -> None:
        """The video is complete, `duration` seconds; layers move up if it is shorter than begun.

        Args:
            faults: of its file; a writer that goes on after a kill still knows them.
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
        self._store._finish_video(self._vid, (self._clips, float(duration), checksum), faults)

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
    """Stretches of a file and where each begins, counted from `begin`."""
    for offset in range(0, size, PIECE):
        yield os.pread(file, min(PIECE, size - offset), begin + offset), offset


def _quantized(tokens: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [..., D] in floats as int8 and scales [...]."""
    if not np.isfinite(tokens).all():
        raise InputError(f"{what} has video_tokens that are NaN or infinite; check the backbone")
    values, scales = quantize(torch.from_numpy(np.ascontiguousarray(tokens)))
    return values.numpy(), scales.numpy()


def _entry_bytes(
    shapes: dict[str, int], kind: str, length: int, types: dict[str, np.dtype]
) -> dict[str, int]:
    """What a video of `length` clips or a query of `length` tokens takes in each file of its."""
    widths = row_widths(shapes)
    return {
        name: (1 if name == "query_embeddings" else length) * widths[name] * dtype.itemsize
        for name, dtype in types.items()
        if name.startswith(kind)
    }


def _width(embedding: np.ndarray | None) -> int:
    return 0 if embedding is None else embedding.shape[-1]


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
