"""The feature store: outputs of the frozen backbone, read through memory maps.

It is written, and grows, by `sdst.data.store.writer`.

A store is a folder of flat binary files and one JSON index that says where everything is:

    index.json              shapes, dtype, meta; clips, seconds and checksum of every video,
                            tokens and checksum of every query; what they were made of
                            (`sdst.data.store.origins`), and the faults of damaged videos
    video_tokens.bin        per video  [K, L, P, Dv]
    video_embeddings.bin    per video  [L, E]
    query_tokens.bin        per query  [K, N, Dt]
    query_embeddings.bin    per query  [E]

In a store of int8 a video's tokens are 8-bit integers with a scale each (`sdst.kernels.quantize`),
half of what fp16 takes, in `video_scales.bin`, [K, L, P] fp32; all else is fp16.

Features of last layers alone have K = 1; those that come without a space shared by video and text
have no embeddings, E = 0. A store appears complete or not at all, opens in milliseconds whatever
its size, and returns views that cost nothing until they are read.

The entries are in the order in which they came. One that comes again replaces the one
before it, whose bytes stay. The index alone says what is in a store: files that are longer have a
tail of a growth that is under way or was stopped, and are read as far as the index knows them.

The features of an entry are compared with their checksum when they are first read, once for all
processes that are forked from the one that opened the store.
"""

from __future__ import annotations

import math
import mmap
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sdst.errors import InputError
from sdst.files.sealed import read_sealed
from sdst.terminal.verbosity import progress_bar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FORMAT = "sdst-features"
VERSION = 2
DTYPES = ("float16", "float32", "int8")
STORED = ("float16", "int8")  # those that a backbone's features are stored in
INDEX = "index.json"
FILES = ("video_tokens", "video_embeddings", "query_tokens", "query_embeddings")
SCALES = "video_scales"
PARTS = {  # of an entry, in the order of its checksum
    "video": ("video_tokens", SCALES, "video_embeddings"),
    "query": ("query_tokens", "query_embeddings"),
}
# What the index calls the origins of its entries; under "videos" it had bytes of files once.
ORIGINS = {"videos": "files", "queries": "queries"}


@dataclass(frozen=True)
class VideoFeatures:
    """A video of L clips: tokens `[K, L, P, Dv]`, unit embeddings `[L, E]` or None, seconds.

    Tokens of int8 are to be multiplied by scales `[K, L, P]`; others have none.
    """

    tokens: np.ndarray | Tensor
    embedding: np.ndarray | Tensor | None
    duration: float
    scales: np.ndarray | Tensor | None = None


@dataclass(frozen=True)
class QueryFeatures:
    """A sentence of N tokens: tokens `[K, N, Dt]`, embedding `[E]` (a unit vector) or None."""

    tokens: np.ndarray | Tensor
    embedding: np.ndarray | Tensor | None


class FeatureSource(Protocol):
    """Where features come from: a `FeatureStore`, or files as others wrote them (`FeatureFiles`).

    `shapes` holds `layers`, `tokens_per_frame`, `video_width`, `text_width` and `embed_width`,
    which is 0 without embeddings.
    """

    shapes: dict[str, int]

    @property
    def path(self) -> Path:
        """Where they are."""
        ...

    @property
    def identity(self) -> list:
        """Plain JSON that changes with the features, as far as a change is cheap to see."""
        ...

    @property
    def video_ids(self) -> list[str]:
        """The videos that have features."""
        ...

    @property
    def query_ids(self) -> list[int | str]:
        """The queries that have features."""
        ...

    def video(self, vid: str) -> VideoFeatures:
        """A video's features."""
        ...

    def query(self, qid: int | str) -> QueryFeatures:
        """A sentence's features."""
        ...


class FeatureStore:
    """Reads a store through memory maps, or from the memory of a device.

    Args:
        path: a folder that `FeatureWriter` published.
        device: keep all features there, as tensors; None maps the files.

    Attributes:
        video_origins, query_origins: what the features were made of, by id
            (`sdst.data.store.origins`).
        faults: by vid, a line for each fault of a damaged video's file.

    Raises:
        InputError: it is missing, of another version, corrupt or truncated; for a `device` also
            where an entry is damaged.
    """

    def __init__(self, path: str | Path, device: torch.device | None = None):
        self.path = Path(path)
        index = read_index(self.path)
        try:
            self.meta: dict = index["meta"]
            self.shapes: dict[str, int] = index["shapes"]
            self.dtype: str = index["dtype"]
            self._types = number_types(self.dtype)
            self._lay_out(index["videos"], index["queries"])
            self.video_origins = _origins_by_id(index, "videos")
            self.query_origins = _origins_by_id(index, "queries")
            self.faults: dict[str, list[str]] = index.get("faults", {})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.path / INDEX}: damaged ({type(error).__name__}: {error}); "
                "remove the folder and extract again"
            ) from None
        self._maps = {name: self._map(name) for name in self._types}
        if device is not None:
            import torch

            self.verify(progress=False)
            self._maps = {
                name: self._resident(torch.tensor(values), self._rows[name][1], device)
                for name, values in self._maps.items()
            }

    def __reduce__(self) -> tuple:
        # Data-loading processes open the maps themselves instead of receiving their content.
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return len(self._videos)

    def __contains__(self, vid: str) -> bool:
        return vid in self._videos

    def __iter__(self) -> Iterator[str]:
        return iter(self._videos)

    @property
    def video_ids(self) -> list[str]:
        """Ids of the videos, in the order written."""
        return list(self._videos)

    @property
    def query_ids(self) -> list[int | str]:
        """Ids of the queries, in the order written."""
        return list(self._queries)

    @property
    def identity(self) -> list:
        """The shapes; the checksum of every video and then of every query, from the index."""
        entries = (*self._videos.values(), *self._queries.values())
        return [self.shapes, [entry[-1] for entry in entries]]

    @property
    def nbytes(self) -> int:
        """Bytes of all features, those that others have taken the place of included."""
        return sum(
            n * width * self._types[name].itemsize for name, (n, width) in self._rows.items()
        )

    def video(self, vid: str) -> VideoFeatures:
        """Read-only views of a video's features.

        Raises:
            InputError: it is not there, or damaged.
        """
        features = self._views_of_video(vid)
        self._check("video", vid, self._videos[vid], features)
        return features

    def extent(self, vid: str) -> tuple[int, float]:
        """How many clips and seconds a video has; its features are not read."""
        if vid not in self._videos:
            raise InputError(f"{self.path}: no features of video {vid}; extract them first")
        _, _, clips, duration, _ = self._videos[vid]
        return clips, duration

    def checksum(self, vid: str) -> int:
        """Of a video's features, as the index notes it."""
        self.extent(vid)
        return self._videos[vid][-1]

    def _views_of_video(self, vid: str) -> VideoFeatures:
        clips, duration = self.extent(vid)
        row = self._videos[vid][1]
        tokens = self._view("video_tokens", row, (self._layers, clips, *self._frame))
        embedding = self._view("video_embeddings", row, (clips, self._embed))
        scales = None
        if SCALES in self._maps:
            scales = self._view(SCALES, row, (self._layers, clips, self._frame[0]))
        return VideoFeatures(tokens, embedding if self._embed else None, duration, scales)

    def query(self, qid: int | str) -> QueryFeatures:
        """Read-only views of a sentence's features.

        Raises:
            InputError: it is not there, or damaged.
        """
        if qid not in self._queries:
            raise InputError(f"{self.path}: no features of query {qid}; extract them first")
        features = self._views_of_query(qid)
        self._check("query", qid, self._queries[qid], features)
        return features

    def _views_of_query(self, qid: int | str) -> QueryFeatures:
        number, row, length, _ = self._queries[qid]
        tokens = self._view("query_tokens", row, (self._layers, length, self._text))
        embedding = self._view("query_embeddings", number, (1, self._embed))[0]
        return QueryFeatures(tokens, embedding if self._embed else None)

    def verify(self, progress: bool = True) -> None:
        """Read everything and compare it with the checksums of the index.

        Raises:
            InputError: naming how many entries differ from what was written, and the first.
        """
        entries = len(self._videos) + len(self._queries)
        damaged = []
        for checked in self._checked.values():
            checked[:] = bytes(len(checked))
        with progress_bar(total=entries, desc="verify", disable=not progress, delay=1) as bar:
            for kind, key, entry, features in self._entries():
                try:
                    self._check(kind, key, entry, features)
                except InputError:
                    damaged.append(f"{kind} {key}")
                bar.update()
        if damaged:
            raise InputError(
                f"{self.path}: {len(damaged)} entries are not what was written "
                f"(first: {damaged[0]}); remove the folder and make it again"
            )

    def _entries(self) -> Iterator[tuple[str, int | str, tuple, VideoFeatures | QueryFeatures]]:
        for vid, entry in self._videos.items():
            yield "video", vid, entry, self._views_of_video(vid)
        for qid, entry in self._queries.items():
            yield "query", qid, entry, self._views_of_query(qid)

    def _check(
        self, kind: str, key: int | str, entry: tuple, features: VideoFeatures | QueryFeatures
    ) -> None:
        """Compare an entry with its checksum, unless that was done."""
        number, *_, expected = entry
        if self._checked[kind][number]:
            return
        if checksum_of(features) != expected:
            files = ", ".join(f"{name}.bin" for name in PARTS[kind] if name in self._types)
            raise InputError(
                f"{self.path}: the features of {kind} {key} are damaged ({files}: not what was "
                "written); remove the folder and make it again"
            )
        self._checked[kind][number] = 1

    def _lay_out(self, videos: list, queries: list) -> None:
        """Find where every entry begins, in rows: clips of videos, tokens of queries."""
        self._layers = self.shapes.get("layers", 0)
        self._frame = (self.shapes.get("tokens_per_frame", 0), self.shapes.get("video_width", 0))
        self._text = self.shapes.get("text_width", 0)
        self._embed = self.shapes.get("embed_width", 0)
        starts = _starts(clips for _, clips, *_ in videos)
        self._videos = {
            vid: (number, row, clips, duration, checksum)
            for number, (row, (vid, clips, duration, checksum)) in enumerate(
                zip(starts, videos, strict=False)
            )
        }
        tokens = _starts(length for _, length, _ in queries)
        self._queries = {
            qid: (number, row, length, checksum)
            for number, (row, (qid, length, checksum)) in enumerate(
                zip(tokens, queries, strict=False)
            )
        }
        # A byte for each, 0 until it has been checked, in memory that forked processes share.
        self._checked = {
            kind: mmap.mmap(-1, len(entries) + 1)
            for kind, entries in (("video", videos), ("query", queries))
        }
        counts = starts[-1], starts[-1], tokens[-1], len(queries)
        rows: dict[str, int] = dict(zip(FILES, counts, strict=True))
        rows[SCALES] = starts[-1]
        widths = row_widths(self.shapes)
        self._rows = {name: (rows[name], widths[name]) for name in self._types}

    def _map(self, name: str) -> np.ndarray:
        file = self.path / f"{name}.bin"
        rows, width = self._rows[name]
        expected = rows * width * self._types[name].itemsize
        found = file.stat().st_size if file.is_file() else None
        if found is None or found < expected:
            raise InputError(
                f"{file}: {'missing' if found is None else f'{found} bytes'}, the index says "
                f"{expected} bytes; remove the folder and extract again"
            )
        if expected == 0:
            return np.empty(0, self._types[name])
        return np.memmap(file, self._types[name], mode="r", shape=(rows * width,))

    @staticmethod
    def _resident(values: Tensor, width: int, device: torch.device) -> Tensor:
        """`values` on `device`, with a row of zeros behind them: what batches are padded with."""
        rows = values.new_zeros(len(values) + width, device=device)
        rows[: len(values)] = values
        return rows

    def _view(self, name: str, row: int, shape: tuple[int, ...]) -> np.ndarray | Tensor:
        start = row * self._rows[name][1]
        return self._maps[name][start : start + math.prod(shape)].reshape(shape)


def checksum_of(features: VideoFeatures | QueryFeatures) -> int:
    """Of what a store has of a video or sentence, as its index notes it."""
    checksum = 0
    for values in (features.tokens, getattr(features, "scales", None), features.embedding):
        if values is not None:
            checksum = zlib.crc32(np.ascontiguousarray(values).data, checksum)
    return checksum


def read_index(path: Path) -> dict:
    """The index of the store at `path`; its format and version are checked."""
    file = path / INDEX
    if not file.is_file():
        raise InputError(f"{path}: no feature store there ({INDEX} not found); extract it first")
    index = read_sealed(file, "remove the folder and make it again")
    try:
        found = index["format"], index["version"]
    except KeyError:
        raise InputError(f"{file}: no index of a feature store; extract it again") from None
    if found != (FORMAT, VERSION):
        raise InputError(
            f"{file}: {found[0]} version {found[1]}, expected {FORMAT} version {VERSION}; "
            "extract it again"
        )
    return index


def read_origins(index: dict, many: str) -> list[int | None]:
    """The origin of every one of an index's `videos` or `queries`; None where it does not say."""
    return index.get("origins", {}).get(ORIGINS[many]) or [None] * len(index[many])


def require(source: FeatureSource, **shapes: int) -> None:
    """Check `layers`, `video_width`, `text_width`, ... against what a model was built for.

    Features of one layer serve every number of layers: each step reads the same.
    """
    for name, expected in shapes.items():
        found = source.shapes.get(name)
        if found != expected and (name, found) != ("layers", 1):
            raise InputError(
                f"{source.path}: {name} of the features is {found}, the model expects {expected}; "
                f"set model.{name} accordingly or take other features"
            )


def number_types(dtype: str) -> dict[str, np.dtype]:
    """The dtype of each file of a store."""
    if dtype != "int8":
        return dict.fromkeys(FILES, np.dtype(dtype))
    types = dict.fromkeys(FILES, np.dtype(np.float16))
    return types | {"video_tokens": np.dtype(np.int8), SCALES: np.dtype(np.float32)}


def row_widths(shapes: dict[str, int]) -> dict[str, int]:
    """Numbers in a row of each file: of a clip, of a token, of a sentence."""
    layers, embed = shapes.get("layers", 0), shapes.get("embed_width", 0)
    frame = shapes.get("tokens_per_frame", 0) * shapes.get("video_width", 0)
    return {
        "video_tokens": layers * frame,
        SCALES: layers * shapes.get("tokens_per_frame", 0),
        "video_embeddings": embed,
        "query_tokens": layers * shapes.get("text_width", 0),
        "query_embeddings": embed,
    }


def _origins_by_id(index: dict, many: str) -> dict:
    keys = (key for key, *_ in index[many])
    return dict(zip(keys, read_origins(index, many), strict=True))


def _starts(counts: Iterable[int]) -> list[int]:
    """Running sum from 0; one longer than `counts`."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts
