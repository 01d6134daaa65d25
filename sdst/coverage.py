"""What there is, in a dataset's folder, of the videos and features that its annotations name."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from sdst.config import Config
from sdst.data.annotations import Annotation
from sdst.data.store.reader import INDEX, FeatureSource, FeatureStore
from sdst.data.video_files import dataset_videos
from sdst.errors import InputError
from sdst.sources import NAMED, Splits, open_files, packed_path


def coverage(config: Config, root: Path, splits: Splits) -> list[str]:
    """A line for the videos, and one for every set of features: how many are there, which are not.

    Nothing is encoded or packed, and nothing missing is an error.
    """
    annotations = [a for split in splits.values() for a in split]
    if config.data.features != "encode":
        return _published(config, root, splits, annotations)
    folder, vids = root / "videos", {a.vid for a in annotations}
    videos = dataset_videos(folder, vids) if folder.is_dir() else {}
    stores = sorted(index.parent for index in root.glob(f"features/*/{INDEX}"))
    return [
        f"{folder}: {_found('videos', vids, videos)}",
        *(_describe_store(store, annotations) for store in stores),
        *([] if stores else ["no features yet; sdst.extract or the first training makes them"]),
    ]


def _published(
    config: Config, root: Path, splits: Splits, annotations: Sequence[Annotation]
) -> list[str]:
    packed = packed_path(config, root)
    if packed.exists():
        return [_describe_store(packed, annotations)]
    lenient = replace(config, data=replace(config.data, allow_missing=True))
    try:
        _, files = open_files(lenient, root, splits)
    except InputError as error:
        return [f"no features: {error}"]
    return [_describe(files, annotations), "not packed yet; sdst.convert does it"]


def _describe_store(path: Path, annotations: Sequence[Annotation]) -> str:
    try:
        return _describe(FeatureStore(path), annotations)
    except InputError as error:
        return f"no features: {error}"


def _describe(source: FeatureSource, annotations: Sequence[Annotation]) -> str:
    shapes = source.shapes
    videos = _found("videos", {a.vid for a in annotations}, source.video_ids)
    queries = _found("queries", {a.qid for a in annotations}, source.query_ids)
    return (
        f"{source.path}: features of {videos}; {queries}; {shapes['layers']} layers, "
        f"{shapes['tokens_per_frame']} x {shapes['video_width']} per clip, "
        f"{shapes['text_width']} per word"
    )


def _found(kind: str, wanted: Collection, there: Collection) -> str:
    missing = sorted(set(wanted).difference(there), key=str)
    count = f"{len(wanted) - len(missing):,} of {len(wanted):,} {kind}"
    if not missing:
        return count
    named = ", ".join(map(str, missing[:NAMED]))
    return f"{count} (missing: {named}{', ...' if len(missing) > NAMED else ''})"
