"""The entries of a feature store, recorded one by one while it is written."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sdst.data.store.reader import (
    FORMAT,
    ORIGINS,
    PARTS,
    VERSION,
    FeatureStore,
    read_index,
    read_origins,
    row_widths,
)
from sdst.errors import InputError
from sdst.terminal.verbosity import progress_bar

JOURNAL = "journal.jsonl"
PIECE = 2**22  # bytes read at once
FIELDS = {"video": 4, "query": 3}  # of an entry in the index
MANY = {"video": "videos", "query": "queries"}


@dataclass(frozen=True)
class Entry:
    """An entry of the index for a video or query: its origin, and its file's faults."""

    fields: list
    origin: int | None = None
    faults: Sequence[str] = ()


class Journal:
    """The entries of a store: those of its index, then those of a file with one line for each.

    Only recorded entries exist after a kill.

    Args:
        meta, dtype: as of `FeatureWriter`.
        types: the dtype of each of the store's files.

    Attributes:
        shapes: of the features, as in the index.
    """

    def __init__(self, meta: dict, dtype: str, types: dict[str, np.dtype]) -> None:
        self.shapes: dict[str, int] = {}
        self._header = {"format": FORMAT, "version": VERSION, "dtype": dtype, "meta": meta}
        self._types = types
        self._behind: list[int] | None = None  # entries of the index, where there is one
        self._entries: dict[str, list[Entry]] = {kind: [] for kind in FIELDS}
        self._current: dict[str, dict[int | str, Entry]] = {kind: {} for kind in FIELDS}

    @property
    def grew(self) -> bool:
        """Whether there is more than the index says."""
        return self._counts() != self._behind

    def current(self, kind: str) -> Mapping[Any, Entry]:
        """The videos or queries by id; the last of those that came again."""
        return self._current[kind]

    def index(self) -> dict:
        """The index of a store of all entries."""
        columns = {MANY[kind]: entries for kind, entries in self._entries.items()}
        videos = self._current["video"]
        return {
            **self._header,
            "shapes": self.shapes,
            **{many: [e.fields for e in entries] for many, entries in columns.items()},
            "origins": {
                ORIGINS[many]: [e.origin for e in entries] for many, entries in columns.items()
            },
            "faults": {vid: list(e.faults) for vid, e in videos.items() if e.faults},
        }

    def read_index(self, path: Path) -> None:
        """Begin with the entries of the finished store at `path`.

        Raises:
            InputError: it is damaged, or was made with other settings.
        """
        store, index = FeatureStore(path), read_index(path)
        self._check_settings(f"{path}: was", index, "choose another folder")
        self.shapes = index["shapes"]
        for kind, many in MANY.items():
            self._entries[kind], self._current[kind] = [], {}
            for fields, origin in zip(index[many], read_origins(index, many), strict=True):
                faults = store.faults.get(fields[0], []) if kind == "video" else []
                self._keep(kind, Entry(fields, origin, faults))
        self._behind = self._counts()

    def open(self, file: BinaryIO, path: Path) -> None:
        """Take `file`, and leave it behind its first line, which says what it belongs to.

        That line of a store that grows has the counts of its index. A journal of other counts is
        what a writer left that was killed when it had put a new index in place.

        Raises:
            InputError: it is of an unfinished store, at `path`, that was made with other settings.
        """
        self._file = file
        header = self._header
        if self._behind is not None:
            header = {**header, "behind": self._behind}
        file.seek(0)
        line = file.readline()
        try:
            found = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):  # damaged, so that nothing is known of what follows
            found = None
        if not (isinstance(found, dict) and isinstance(found.get("meta"), dict)):
            found = None
        if found is not None and self._behind is None:
            self._check_settings(f"{path}: an unfinished store,", found, "remove it")
        if found != header:
            file.truncate(0)
            self._write(header)

    def take_up(self, files: Mapping[str, BinaryIO]) -> dict[str, int]:
        """Read the lines up to the last whole one whose features are in `files`.

        Features that differ from their checksum were not on the disk yet when the power failed.
        They are forgotten, and the entries after them.

        Returns:
            How many bytes of each of the files the entries fill.
        """
        filled = dict.fromkeys(self._types, 0)
        for kind, entries in self._entries.items():
            for entry in entries:
                filled = self._with(filled, self.shapes, kind, entry)
        good, size = self._file.tell(), os.fstat(self._file.fileno()).st_size
        with progress_bar(total=size, initial=good, desc="check", unit="B", delay=1) as bar:
            while (found := _parsed(self._file.readline())) is not None:
                shapes, kind, entry = found
                after = self._with(filled, shapes, kind, entry)
                if _checksum(kind, files, filled, after) != entry.fields[-1]:
                    break
                self._keep(kind, entry)
                self.shapes, filled = shapes, after
                bar.update(self._file.tell() - good)
                good = self._file.tell()
        self._file.truncate(good)
        return filled

    def add(self, kind: str, entry: Entry) -> None:
        """Record that the features of an entry are in the files."""
        line = [self.shapes, kind, *entry.fields, list(entry.faults), entry.origin]
        self._write([*line, _line_checksum(line)])
        self._keep(kind, entry)

    def _keep(self, kind: str, entry: Entry) -> None:
        self._entries[kind].append(entry)
        self._current[kind][entry.fields[0]] = entry

    def _write(self, line: object) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def _counts(self) -> list[int]:
        return [len(entries) for entries in self._entries.values()]

    def _with(
        self, filled: dict[str, int], shapes: dict[str, int], kind: str, entry: Entry
    ) -> dict[str, int]:
        """How far the files are filled with one more entry: clips of a video, tokens of a query."""
        widths, length = row_widths(shapes), entry.fields[1]
        after = dict(filled)
        for name, dtype in self._types.items():
            if name.startswith(kind):
                rows = 1 if name == "query_embeddings" else length
                after[name] += rows * widths[name] * dtype.itemsize
        return after

    def _check_settings(self, what: str, found: dict, advice: str) -> None:
        """Refuse what was made otherwise than this store is."""
        theirs, ours = ({**header, **header["meta"]} for header in (found, self._header))
        names = dict.fromkeys(("format", "version", "dtype", *found["meta"], *self._header["meta"]))
        if other := [
            f"{name} {theirs.get(name)!r}, expected {ours.get(name)!r}"
            for name in names
            if theirs.get(name) != ours.get(name)
        ]:
            raise InputError(
                f"{what} made with {', '.join(other)}; continue with its settings, or {advice}"
            )


def _parsed(line: bytes) -> tuple[dict[str, int], str, Entry] | None:
    """The shapes, the kind and the entry of a line; None for half or a damaged one."""
    if not line.endswith(b"\n"):
        return None
    try:
        written = json.loads(line)
        shapes, kind, *rest = written
        fields, more = rest[: FIELDS[kind]], rest[FIELDS[kind] :]
        # Older journals have no checksum of a line, no origin, no faults.
        faults, origin, checksum = more + [[], None, None][len(more) :]
        if checksum not in (None, _line_checksum(written[:-1])):
            return None
        return shapes, kind, Entry(fields, origin, faults)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _line_checksum(line: list) -> int:
    return zlib.crc32(json.dumps(line).encode())


def _checksum(
    kind: str, files: Mapping[str, BinaryIO], begin: dict[str, int], end: dict[str, int]
) -> int:
    """Of the features between two places in the files, as the index notes it."""
    checksum = 0
    for name in PARTS[kind]:
        for place in range(begin[name], end[name], PIECE) if name in files else ():
            piece = os.pread(files[name].fileno(), min(PIECE, end[name] - place), place)
            checksum = zlib.crc32(piece, checksum)
    return checksum
