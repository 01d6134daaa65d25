"""Extraction on several machines by Ray Data: actors encode, one process writes the store.

Videos are files that all machines see, or objects of `s3://`, `gs://` and other schemes of fsspec.
Ray moves features to the writer in order, so the store has the bytes that one process alone would
have written; an actor that dies is replaced, and its videos are encoded again. No folder is shared.
Where Ray is not installed, `torchrun` shares videos out (`sdst.extraction.shards`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sdst.backbones import load_backbone
from sdst.errors import InputError
from sdst.extraction.pipeline import Features, Unreadable, encoded_pieces
from sdst.extraction.remote import Place, local_copy, origins_anywhere
from sdst.extraction.settings import Settings

CLIPS_AT_ONCE = 256  # travel together
UNINSTALLED = "--ray: Ray is not installed; pip install 'sdst[ray]', or share out with torchrun"


@dataclass
class ReadElsewhere:
    """`ClipReader`'s report on a video that another machine reads."""

    expected: int
    duration: float
    faults: list[str] = field(default_factory=list)


class RayEngine:
    """Encodes videos by actors of a Ray cluster, on GPUs where it has some.

    Args:
        backbone: a name for `load_backbone`, whose files every machine must have.
        layers: K.
        settings: of the store.
        address: of a cluster; None: `$RAY_ADDRESS`, or a new one on this machine.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self, backbone: str, layers: int, settings: Settings, address: str | None = None
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
        try:
            import ray  # pyright: ignore[reportMissingImports], which may be absent
            import ray.data  # pyright: ignore[reportMissingImports], likewise
        except ImportError:
            raise InputError(UNINSTALLED) from None
        if not ray.is_initialized():
            try:
                ray.init(address, logging_level=logging.WARNING, log_to_driver=False)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(f"--ray {address}: {_reason(error)}") from None
        self._ray, self._arguments = ray, (backbone, layers, settings)

    def origins(self, videos: Mapping[str, Place]) -> dict[str, int | None]:
        """The origins of videos (`sdst.data.store.origins`)."""
        return origins_anywhere(videos)

    def pieces(self, videos: Mapping[str, Place]) -> Iterator[Features | Unreadable]:
        """The features of all videos in their order, some clips at a time.

        Raises:
            InputError: an actor cannot begin, as where a machine lacks the backbone's files.
        """
        if not videos:
            return
        ray, items = self._ray, [{"vid": v, "place": str(p)} for v, p in videos.items()]
        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        with ray.data.DataContext.current(context):
            encoded = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
                Encoder,
                fn_constructor_args=self._arguments,
                concurrency=max(1, min(gpus or cpus, len(items))),
                batch_size=1,
                num_cpus=0 if gpus else 1,
                num_gpus=1 if gpus else 0,
            )
            try:
                yield from map(_unpacked, encoded.iter_rows())
            except ray.exceptions.RayError as error:
                raise InputError(f"--ray: {_reason(error)}") from error


class Encoder:
    """The work of an actor: videos become rows of features.

    Args:
        backbone, layers, settings: as of `RayEngine`.
    """

    def __init__(self, backbone: str, layers: int, settings: Settings) -> None:
        self._backbone, self._settings = load_backbone(backbone, layers), settings

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, list]]:
        """A row for every some clips of each video."""
        for vid, place in zip(batch["vid"], batch["place"], strict=True):
            for piece in _joined(self._encode(str(vid), str(place))):
                yield {name: [value] for name, value in _packed(piece).items()}

    def _encode(self, vid: str, place: str) -> Iterator[Features | Unreadable]:
        """The pieces of a video; what is wrong with it is said of its own place."""
        try:
            with local_copy(place) as path:
                for piece in encoded_pieces(vid, path, self._backbone, self._settings):
                    if isinstance(piece, Unreadable):
                        named = str(piece.error).replace(str(path), place)
                        yield Unreadable(vid, InputError(named))
                        continue
                    faults = [line.replace(str(path), place) for line in piece.reader.faults]
                    read = ReadElsewhere(piece.reader.expected, piece.reader.duration, faults)
                    yield piece._replace(reader=read)
        except InputError as error:
            yield Unreadable(vid, error)


def _joined(pieces: Iterator[Features | Unreadable]) -> Iterator[Features | Unreadable]:
    """Pieces of about `CLIPS_AT_ONCE` clips."""
    some: list[Features] = []
    for piece in pieces:
        if not isinstance(piece, Unreadable):
            some.append(piece)
        if some and (
            isinstance(piece, Unreadable) or sum(len(p.embedding) for p in some) >= CLIPS_AT_ONCE
        ):
            yield _one(some)
            some = []
        if isinstance(piece, Unreadable):
            yield piece
    if some:
        yield _one(some)


def _one(pieces: list[Features]) -> Features:
    tokens = np.concatenate([piece.tokens for piece in pieces], axis=1)
    return pieces[-1]._replace(
        tokens=tokens, embedding=np.concatenate([piece.embedding for piece in pieces])
    )


def _packed(piece: Features | Unreadable) -> dict[str, Any]:
    """A piece as columns that Arrow has types for."""
    if isinstance(piece, Unreadable):
        said = {"vid": piece.vid, "error": str(piece.error)}
        return {"said": json.dumps(said), "tokens": b"", "embedding": b""}
    said = {
        "vid": piece.vid,
        "read": {name: getattr(piece.reader, name) for name in ("expected", "duration", "faults")},
        "tokens": piece.tokens.shape,
        "embedding": piece.embedding.shape,
    }
    return {
        "said": json.dumps(said),
        "tokens": piece.tokens.tobytes(),
        "embedding": piece.embedding.tobytes(),
    }


def _unpacked(row: dict[str, Any]) -> Features | Unreadable:
    said = json.loads(row["said"])
    if "error" in said:
        return Unreadable(said["vid"], InputError(said["error"]))
    tokens, embedding = (
        np.frombuffer(row[name], np.float16).reshape(said[name]) for name in ("tokens", "embedding")
    )
    return Features(said["vid"], ReadElsewhere(**said["read"]), tokens, embedding)


def _reason(error: Exception) -> str:
    """The last line of what Ray says of an actor: the error itself, without the machine's trace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
