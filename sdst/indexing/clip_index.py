"""The vector index of a corpus: one row for every clip, with its embedding and its video's fields.

A search through many videos has two stages: the clips nearest to the sentence in the backbone's
joint space name the candidate videos, and the grounder looks for the moment in those alone.

The index is a table of LanceDB, in a folder or in object storage (`s3://`, `gs://`, `az://`), whose
commits are atomic. A row has

    vid       the video's id
    clip      its number in the video, from 0
    checksum  of the video's features, as their store notes it
    vector    [E], the clip's unit embedding, fp32
    ...       the video's fields, of which a filter speaks

All rows of a video come in one commit, so that a video is in the index whole or not at all.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdst.data.store.reader import INDEX, FeatureStore
from sdst.errors import InputError, one_line, system_error
from sdst.files.text import whole_characters
from sdst.indexing.checksums import check_files, write_checksums
from sdst.indexing.metadata import Fields

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "clips"
FEATURES = "features"  # the store within an index that encodes its videos itself
COLUMNS = ("vid", "clip", "checksum", "vector")
SETTINGS = ("backbone", "fingerprint", "clip_length", "frames_per_clip")
# Fewer clips are compared with a sentence one by one, in some 10 ms.
TRAINED_FROM = 50_000
TRAININGS, SAMPLED = 10, 64  # passes of k-means, over so many clips for each partition
# What a query looks at; figures are in benchmarks/RESULTS.md.
PROBED = 32  # partitions
REFINED = 4  # clips compared exactly, for each one returned
CANDIDATES = 32  # videos
CLIPS_PER_CANDIDATE = 32
MOST_CLIPS = 32_768
CHECKED = 128 * 2**20  # bytes of files compared with their checksums before a search, 0.1 s
IDS_AT_ONCE = 500  # in a condition
ESCAPED = "\0"  # begins an id that is no text, as JSON
FRESH = timedelta(seconds=5)  # after which an open index looks for changes
OLD = timedelta(hours=1)  # versions that readers may still be in
UNINSTALLED = "an index needs LanceDB, which is not installed; pip install 'sdst[index]'"


@dataclass(frozen=True)
class IndexedVideo:
    """A video as the index has it: its features' checksum, and its fields."""

    checksum: int
    fields: Fields


class ClipTable:
    """The rows of an index, which one process at a time may change.

    Args:
        table: of LanceDB.
        path: of the index, as messages name it.
    """

    def __init__(self, table: Any, path: str | Path) -> None:
        self._table, self._path = table, path

    @classmethod
    def open(cls, path: str | Path, most: int | None = CHECKED) -> ClipTable:
        """The index at `path`.

        Args:
            most: bytes of its files that are compared with their checksums; None: all.

        Raises:
            InputError: there is none, it is damaged, or LanceDB is not installed.
        """
        folder = _folder(path)
        if folder is not None and not folder.is_dir():
            raise InputError(f"{path}: no index there; make one with sdst.index")
        sealed = check_files(folder, most) if folder else 0
        with _speaking_of(path):
            table = cls(_connect(path).open_table(TABLE), path)
        table._check_version(sealed)
        return table

    @classmethod
    def open_or_create(cls, path: str | Path, settings: dict, width: int) -> ClipTable:
        """The index at `path`, made where there is none.

        Args:
            settings: `SETTINGS` of the features.
            width: E of the embeddings.

        Raises:
            InputError: it was made of other features, or is damaged.
        """
        pa = _arrow()
        folder = _folder(path)
        sealed = check_files(folder) if folder else 0
        types = {
            "vid": pa.string(),
            "clip": pa.int32(),
            "checksum": pa.int64(),
            "vector": pa.list_(pa.float32(), width),
        }
        schema = pa.schema(types.items(), metadata={"sdst": json.dumps(settings)})
        with _speaking_of(path):
            database = _connect(path)
            try:
                table = cls(database.open_table(TABLE), path)
            except ValueError:  # there is none
                if sealed:
                    raise
                table = cls(database.create_table(TABLE, schema=schema), path)
        table._check_version(sealed)
        _check_settings(path, table.settings, settings)
        return table

    def _check_version(self, sealed: int) -> None:
        """Refuse a table whose newest version is lost; LanceDB would take an older one."""
        if self._table.version < sealed:
            raise InputError(
                f"{self._path}: damaged (version {self._table.version} is left of {sealed}); "
                f"{_advice(self._path)}"
            )

    @property
    def settings(self) -> dict:
        """The settings that the indexed features were made with, `SETTINGS`."""
        with self._speaking():
            metadata = self._table.schema.metadata or {}
        try:
            return dict(json.loads(metadata[b"sdst"]))
        except (KeyError, TypeError, ValueError, RecursionError):
            raise InputError(
                f"{self._path}: does not say what its features were made with; "
                f"{_advice(self._path)}"
            ) from None

    @property
    def fields(self) -> dict[str, pa.DataType]:
        """The fields of videos, and their types."""
        with self._speaking():
            schema = self._table.schema
        return {name: schema.field(name).type for name in schema.names if name not in COLUMNS}

    def __len__(self) -> int:
        with self._speaking():
            return self._table.count_rows()

    def videos(self) -> dict[str, IndexedVideo]:
        """The indexed videos, by id."""
        names = ["vid", "checksum", *self.fields]
        with self._speaking():
            first = self._table.search().where("clip = 0").select(names).to_arrow().to_pylist()
        return {
            _loaded(row.pop("vid")): IndexedVideo(row.pop("checksum"), _given(row)) for row in first
        }

    def add(self, videos: Sequence[tuple[str, np.ndarray, IndexedVideo]]) -> None:
        """Add videos with their embeddings `[L, E]` in one commit."""
        pa = _arrow()
        schema = self._table.schema
        lengths = [len(embedding) for _, embedding, _ in videos]
        vectors = np.concatenate([embedding for _, embedding, _ in videos]).astype(np.float32)
        clips = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        of_video = np.repeat(np.arange(len(videos)), lengths)
        columns = {
            "vid": pa.array([_stored(vid) for vid, _, _ in videos]).take(pa.array(of_video)),
            "clip": pa.array(clips),
            "checksum": pa.array(np.array([video.checksum for *_, video in videos])[of_video]),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(vectors.reshape(-1)), vectors.shape[1]
            ),
        }
        for name, kind in self.fields.items():
            values = pa.array([video.fields.get(name) for *_, video in videos], kind)
            columns[name] = values.take(pa.array(of_video))
        with self._speaking():
            self._table.add(pa.table(columns, schema=schema))

    def remove(self, vids: Sequence[str]) -> None:
        """Remove videos."""
        for first in range(0, len(vids), IDS_AT_ONCE):
            names = ", ".join(_quoted(_stored(vid)) for vid in vids[first : first + IDS_AT_ONCE])
            with self._speaking():
                self._table.delete(f"vid IN ({names})")

    def add_fields(self, types: Mapping[str, str]) -> None:
        """Make room for fields of these types, `number`, `text` or `truth`.

        Raises:
            InputError: a field exists with another type.
        """
        pa = _arrow()
        known = {"number": pa.float64(), "text": pa.string(), "truth": pa.bool_()}
        for name, kind in types.items():
            there = self.fields.get(name)
            if there is not None and there != known[kind]:
                named = next((k for k, value in known.items() if value == there), there)
                raise InputError(
                    f"{self._path}: field {name} is {named}, in the metadata it is {kind}; "
                    "rename the field, or make a new index"
                )
        new = [(name, known[kind]) for name, kind in types.items() if name not in self.fields]
        if new:
            with self._speaking():
                self._table.add_columns(pa.schema(new))

    def finish(self) -> None:
        """Index the rows that came since the last time, merge small files, note checksums."""
        rows = len(self)
        with self._speaking():
            if not self._table.list_indices() and rows >= TRAINED_FROM:
                self._partition(rows)
            self._table.optimize(cleanup_older_than=OLD)
            version = self._table.version
        if (folder := _folder(self._path)) is not None:
            write_checksums(folder, version)

    def _partition(self, rows: int) -> None:
        from lancedb.index import IvfSq

        config = IvfSq(
            distance_type="cosine",
            num_partitions=partitions(rows),
            max_iterations=TRAININGS,
            sample_rate=SAMPLED,
        )
        self._table.create_index("vector", config=config)

    def nearest(
        self, embedding: np.ndarray, clips: int, where: str | None = None
    ) -> list[tuple[str, int, float]]:
        """The clips nearest to an embedding `[E]`: video, number and cosine, best first.

        Raises:
            InputError: `where` is no condition on the fields.
        """
        with self._speaking():
            found = self._table.search(embedding.astype(np.float32), vector_column_name="vector")
            found = found.distance_type("cosine").refine_factor(REFINED)
            # Where a condition leaves too few clips in the partitions probed, others are.
            found = found.minimum_nprobes(PROBED).maximum_nprobes(0)
            found = found.limit(clips).select(["vid", "clip", "_distance"])
        try:
            with self._speaking():
                rows = (found if where is None else found.where(where, prefilter=True)).to_arrow()
        except InputError as error:
            if where is None:
                raise
            self.nearest(embedding, clips)  # which raises where the fault is the index's
            reason = self._reason(error.__cause__ or error)
            raise InputError(f"--where {where!r}: {reason}") from None
        columns = (rows[name].to_pylist() for name in ("vid", "clip", "_distance"))
        return [
            (_loaded(vid), clip, 1 - distance) for vid, clip, distance in zip(*columns, strict=True)
        ]

    def nearest_videos(
        self,
        embedding: np.ndarray,
        videos: int,
        where: str | None = None,
        among: Container[str] | None = None,
    ) -> list[str]:
        """The videos whose clips are nearest to an embedding `[E]`, best first.

        Neighbouring clips look alike, so that more and more of them are looked at until they are of
        so many videos.

        Args:
            among: videos that count; None: all.

        Raises:
            InputError: `where` is no condition on the fields.
        """
        clips = CLIPS_PER_CANDIDATE * videos
        while True:
            found = self.nearest(embedding, clips, where)
            vids = dict.fromkeys(vid for vid, *_ in found if among is None or vid in among)
            if len(vids) >= videos or len(found) < clips or clips >= MOST_CLIPS:
                return list(vids)[:videos]
            clips *= 4

    def _speaking(self) -> AbstractContextManager[None]:
        return _speaking_of(self._path)

    def _reason(self, error: BaseException) -> str:
        """LanceDB's message about a condition, without places in its own source."""
        reason = _words(error).rpartition("error: ")[2]
        fields = ", ".join(self.fields) or "none, as sdst.index was given no metadata"
        return f"{reason}; expected SQL such as \"year >= 2020 AND place = 'park'\" on {fields}"


class ClipIndex:
    """A corpus to search in two stages: `grounder.search(ClipIndex("INDEX"), "a dog jumps")`.

    What is added to the index later is found without opening it again.

    Args:
        path: folder or URL of an index of `sdst.index`.
        store: the feature store of its videos; None: the one in the index's folder.
        videos: how many candidates are grounded for each sentence.
        where: a condition in SQL on the videos' fields, such as `year >= 2020`.

    Raises:
        InputError: there is no index or no store, or they are of different features.
    """

    def __init__(
        self,
        path: str | Path,
        store: str | Path | FeatureStore | None = None,
        videos: int = CANDIDATES,
        where: str | None = None,
    ) -> None:
        if videos < 1:
            raise InputError(f"--candidates {videos}: expected at least 1 video")
        self.path, self.videos, self.where = path, videos, where
        self.table = ClipTable.open(path)
        self.store = store if isinstance(store, FeatureStore) else _open_store(path, store)
        _check_settings(path, self.table.settings, settings_of(self.store.meta))

    def __len__(self) -> int:
        """How many videos are looked into for a sentence, at most."""
        return min(self.videos, len(self.store))

    def candidates(self, embedding: np.ndarray) -> list[str]:
        """The videos whose clips are nearest to a sentence's embedding `[E]`, best first."""
        return self._grounded(self.table.nearest_videos(embedding, self.videos, self.where))

    def _grounded(self, vids: list[str]) -> list[str]:
        """Those whose features are in the store, opened again where it has grown."""
        if any(vid not in self.store for vid in vids):
            self.store = FeatureStore(self.store.path)
        return [vid for vid in vids if vid in self.store]


def partitions(clips: int) -> int:
    """How many partitions an index of so many clips has: what a query reads of their centers and
    of the clips in `PROBED` of them grows with the root."""
    return max(1, math.isqrt(clips))


def settings_of(meta: Mapping[str, Any]) -> dict:
    """The settings that decide whether embeddings can be compared, of their store's `meta`."""
    settings = {name: meta.get(name) for name in SETTINGS}
    # The embedding is the same however many layers are kept.
    settings["fingerprint"] = re.sub(r"-k\d+$", "", str(settings["fingerprint"]))
    return settings


def _open_store(path: str | Path, store: str | Path | None) -> FeatureStore:
    """The store that is named, or the one in the index's folder."""
    place = Path(path, FEATURES) if store is None else Path(store)
    if store is None and ("://" in str(path) or not (place / INDEX).is_file()):
        raise InputError(
            f"{path}: the index has no features of its own; give --store DIR, the store that it "
            "was made of"
        )
    return FeatureStore(place)


def _check_settings(path: str | Path, found: dict, expected: dict) -> None:
    for name in SETTINGS:
        if found.get(name) != expected[name]:
            raise InputError(
                f"{path}: the index is of features with {name} {found.get(name)}, expected "
                f"{expected[name]}; give the store or model it was made with, or another index"
            )


def _connect(path: str | Path) -> Any:
    try:
        import lancedb
    except ImportError:
        raise InputError(UNINSTALLED) from None
    return lancedb.connect(str(path), read_consistency_interval=FRESH)


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise InputError(UNINSTALLED) from None
    return pyarrow


def _folder(path: str | Path) -> Path | None:
    """The table's folder; None in object storage, which has checksums of its own."""
    return None if "://" in str(path) else Path(path, f"{TABLE}.lance")


@contextmanager
def _speaking_of(path: str | Path) -> Iterator[None]:
    """Make what LanceDB raises about the index at `path` an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        # Rust's panics are no `Exception`, and of a type that cannot be imported.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        number = system_error(error)
        if number not in (None, ENOENT):  # a full disk, say, is no damage; a missing file is
            raise OSError(number, os.strerror(number), str(path)) from error
        raise InputError(
            f"{path}: LanceDB cannot read or change the index ({_words(error)}); if it is damaged, "
            f"{_advice(path)}"
        ) from error


def _words(error: BaseException) -> str:
    """LanceDB's message, without places in its own source."""
    return one_line(error).split(", /")[0]


def _advice(path: str | Path) -> str:
    return f"remove {path}/{TABLE}.lance and run sdst.index again"


def _stored(vid: str) -> str:
    """An id as text in UTF-8, which the names of files need not be."""
    as_it_is = whole_characters(vid) == vid and not vid.startswith(ESCAPED)
    return vid if as_it_is else f"{ESCAPED}{json.dumps(vid)}"


def _loaded(text: str) -> str:
    """The id that `_stored` gave."""
    return json.loads(text[1:]) if text.startswith(ESCAPED) else text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _given(row: dict) -> Fields:
    return {name: value for name, value in row.items() if value is not None}
