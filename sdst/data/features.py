"""The feature store: what the frozen backbone said, written once and read through memory maps.

A store is a folder of four flat binary files and one JSON index that says what lies where:

    index.json              shapes, number type, meta, clips per video, tokens per query
    video_tokens.bin        per video  [K, L, P, Dv]
    video_embeddings.bin    per video  [L, E]
    query_tokens.bin        per query  [K, N, Dt]
    query_embeddings.bin    per query  [E]

It appears complete or not at all, opens in milliseconds whatever its size, and hands out views that
cost nothing until they are read.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from sdst.errors import InputError

FORMAT = "sdst-features"
VERSION = 1
DTYPES = ("float16", "float32")
INDEX = "index.json"
FILES = ("video_tokens", "video_embeddings", "query_tokens", "query_embeddings")


@dataclass(frozen=True)
class VideoFeatures:
    """A video of L clips: tokens `[K, L, P, Dv]`, embedding `[L, E]` (unit rows), seconds."""

    tokens: np.ndarray
    embedding: np.ndarray
    duration: float


@dataclass(frozen=True)
class QueryFeatures:
    """A sentence of N tokens: tokens `[K, N, Dt]`, embedding `[E]` (a unit vector)."""

    tokens: np.ndarray
    embedding: np.ndarray


class FeatureWriter:
    """Writes a store; a context manager that publishes it on a clean exit, else leaves nothing.

    Args:
        path: the store's folder; must not exist yet.
        meta: kept with the store, JSON types only; by convention `backbone`, `fingerprint`,
            `clip_length`, `frames_per_clip`.
        dtype: `float16` or `float32`.
    """

    def __init__(self, path: str | Path, meta: dict, dtype: str = "float16"):
        self.path = Path(path)
        if self.path.exists():
            raise InputError(f"{path}: exists already; remove it or choose another folder")
        if dtype not in DTYPES:
            raise InputError(f"feature type {dtype!r}: expected one of {', '.join(DTYPES)}")
        self._dtype = np.dtype(dtype)
        self._index = {"format": FORMAT, "version": VERSION, "dtype": dtype, "meta": meta}
        self._shapes: dict[str, int] = {}
        self._videos: dict[str, tuple[int, float]] = {}
        self._queries: dict[int | str, int] = {}

    def __enter__(self) -> FeatureWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._building = Path(tempfile.mkdtemp(prefix=f".{self.path.name}-", dir=self.path.parent))
        self._files = {name: (self._building / f"{name}.bin").open("wb") for name in FILES}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()
        try:
            if kind is None:
                self._publish()
        finally:
            shutil.rmtree(self._building, ignore_errors=True)

    def add_video(
        self, vid: str, duration: float, tokens: np.ndarray, embedding: np.ndarray
    ) -> None:
        """Append a video: tokens `[K, L, P, Dv]`, embedding `[L, E]`, duration in seconds."""
        if vid in self._videos:
            raise InputError(f"{self.path}: video {vid} is given twice")
        layers, clips, per_frame, width = tokens.shape
        self._expect(
            f"video {vid}",
            layers=layers,
            tokens_per_frame=per_frame,
            video_width=width,
            embed_width=embedding.shape[-1],
        )
        self._write("video_tokens", f"video {vid}", tokens)
        self._write("video_embeddings", f"video {vid}", embedding)
        self._videos[vid] = (clips, float(duration))

    def add_query(self, qid: int | str, tokens: np.ndarray, embedding: np.ndarray) -> None:
        """Append a sentence: tokens `[K, N, Dt]`, embedding `[E]`."""
        if qid in self._queries:
            raise InputError(f"{self.path}: query {qid} is given twice")
        layers, length, width = tokens.shape
        self._expect(
            f"query {qid}", layers=layers, text_width=width, embed_width=embedding.shape[-1]
        )
        self._write("query_tokens", f"query {qid}", tokens)
        self._write("query_embeddings", f"query {qid}", embedding)
        self._queries[qid] = length

    def _expect(self, what: str, **shapes: int) -> None:
        for name, value in shapes.items():
            known = self._shapes.setdefault(name, value)
            if value != known:
                raise InputError(
                    f"{self.path}: {what} has {name} {value}, those before it {known}; "
                    "one store holds the features of one backbone"
                )

    def _write(self, name: str, what: str, values: np.ndarray) -> None:
        with np.errstate(over="ignore"):  # what does not fit becomes inf, which is refused below
            stored = np.ascontiguousarray(values, dtype=self._dtype)
        if not np.isfinite(stored).all():
            raise InputError(
                f"{self.path}: {what} has {name} that are NaN or do not fit {self._dtype}; "
                "check the backbone, or store float32"
            )
        self._files[name].write(stored.data)

    def _publish(self) -> None:
        index = {
            **self._index,
            "shapes": self._shapes,
            "videos": [[vid, *entry] for vid, entry in self._videos.items()],
            "queries": [[qid, length] for qid, length in self._queries.items()],
        }
        (self._building / INDEX).write_text(json.dumps(index))
        self._building.chmod(0o755)
        try:
            self._building.rename(self.path)
        except OSError:
            # Another process was faster with the same features: its store stands.
            if not (self.path / INDEX).is_file():
                raise


class FeatureStore:
    """Reads a store through memory maps.

    Args:
        path: a folder that `FeatureWriter` published.

    Raises:
        InputError: it is missing, of another version, corrupt or truncated.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        index = _read_index(self.path)
        try:
            self.meta: dict = index["meta"]
            self.shapes: dict[str, int] = index["shapes"]
            self._dtype = np.dtype(index["dtype"])
            self._lay_out(index["videos"], index["queries"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{self.path / INDEX}: damaged ({type(error).__name__}: {error}); "
                "remove the folder and extract again"
            ) from None
        self._maps = {name: self._map(name) for name in FILES}

    def __reduce__(self) -> tuple:
        # Data-loading processes open the maps themselves instead of receiving their content.
        return FeatureStore, (self.path,)

    def __len__(self) -> int:
        return len(self._videos)

    def __contains__(self, vid: str) -> bool:
        return vid in self._videos

    @property
    def video_ids(self) -> list[str]:
        """Ids of the videos, in the order written."""
        return list(self._videos)

    @property
    def query_ids(self) -> list[int | str]:
        """Ids of the queries, in the order written."""
        return list(self._queries)

    def video(self, vid: str) -> VideoFeatures:
        """Read-only views of a video's features."""
        if vid not in self._videos:
            raise InputError(f"{self.path}: no features of video {vid}; extract them first")
        row, clips, duration = self._videos[vid]
        tokens = self._view("video_tokens", row, (self._layers, clips, *self._frame))
        return VideoFeatures(
            tokens, self._view("video_embeddings", row, (clips, self._embed)), duration
        )

    def query(self, qid: int | str) -> QueryFeatures:
        """Read-only views of a sentence's features."""
        if qid not in self._queries:
            raise InputError(f"{self.path}: no features of query {qid}; extract them first")
        number, row, length = self._queries[qid]
        tokens = self._view("query_tokens", row, (self._layers, length, self._text))
        return QueryFeatures(tokens, self._view("query_embeddings", number, (1, self._embed))[0])

    def require(self, **shapes: int) -> None:
        """Check `layers`, `video_width`, `text_width`, ... against what a model was built for."""
        for name, expected in shapes.items():
            found = self.shapes.get(name)
            if found != expected:
                raise InputError(
                    f"{self.path}: {name} of the features is {found}, the model expects "
                    f"{expected}; set model.{name} accordingly or extract with another backbone"
                )

    def _lay_out(self, videos: list, queries: list) -> None:
        """Find where every entry begins, in rows: clips of videos, tokens of queries."""
        self._layers = self.shapes.get("layers", 0)
        self._frame = (self.shapes.get("tokens_per_frame", 0), self.shapes.get("video_width", 0))
        self._text = self.shapes.get("text_width", 0)
        self._embed = self.shapes.get("embed_width", 0)
        starts = _starts(clips for _, clips, _ in videos)
        self._videos = {
            vid: (row, clips, duration)
            for row, (vid, clips, duration) in zip(starts, videos, strict=False)
        }
        tokens = _starts(length for _, length in queries)
        self._queries = {
            qid: (number, row, length)
            for number, (row, (qid, length)) in enumerate(zip(tokens, queries, strict=False))
        }
        self._rows = {
            "video_tokens": (starts[-1], self._layers * self._frame[0] * self._frame[1]),
            "video_embeddings": (starts[-1], self._embed),
            "query_tokens": (tokens[-1], self._layers * self._text),
            "query_embeddings": (len(queries), self._embed),
        }

    def _map(self, name: str) -> np.ndarray:
        file = self.path / f"{name}.bin"
        rows, width = self._rows[name]
        expected = rows * width * self._dtype.itemsize
        found = file.stat().st_size if file.is_file() else None
        if found != expected:
            raise InputError(
                f"{file}: {'missing' if found is None else f'{found} bytes'}, the index says "
                f"{expected} bytes; remove the folder and extract again"
            )
        if expected == 0:
            return np.empty(0, self._dtype)
        return np.memmap(file, self._dtype, mode="r")

    def _view(self, name: str, row: int, shape: tuple[int, ...]) -> np.ndarray:
        start = row * self._rows[name][1]
        return self._maps[name][start : start + int(np.prod(shape))].reshape(shape)


def _read_index(path: Path) -> dict:
    file = path / INDEX
    if not file.is_file():
        raise InputError(f"{path}: no feature store there ({INDEX} not found); extract it first")
    try:
        index = json.loads(file.read_text())
        found = index["format"], index["version"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{file}: no index of a feature store; extract it again") from None
    if found != (FORMAT, VERSION):
        raise InputError(
            f"{file}: {found[0]} version {found[1]}, expected {FORMAT} version {VERSION}; "
            "extract it again"
        )
    return index


def _starts(counts: Iterable[int]) -> list[int]:
    """Running sum from 0; one longer than `counts`."""
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts
