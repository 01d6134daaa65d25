"""Features that are encoded from videos on first use, and then kept."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from sdst.backbones import Backbone, load_backbone
from sdst.backbones.text_length import describe_unread
from sdst.config import Config
from sdst.data.feature_files import close_lengths
from sdst.data.store.reader import VERSION, FeatureStore
from sdst.data.store.writer import NotWritable, StoreInUse
from sdst.data.video import probe
from sdst.data.video_files import dataset_videos, near_misses
from sdst.errors import InputError, refuse_all
from sdst.extraction.pipeline import Report, extract_features
from sdst.extraction.settings import Settings
from sdst.sources.files import digest
from sdst.sources.splits import NAMED, Splits, keep_available, sentences

logger = logging.getLogger(__name__)

READERS = 8  # files at once: on a shared disk every file is waited for
LOOK_AGAIN = 1.0  # seconds until a store that another process writes is tried again


def encoded(
    config: Config, root: Path, splits: Splits, wait: bool, fetch: bool
) -> tuple[Splits, FeatureStore, dict]:
    """The feature store of these queries and videos, of which it extracts what is not there yet;
    and the preprocessing of their frames.

    One store serves all that is read from the same files of annotations at the same settings.
    """
    folder = root / "videos"
    vids = {a.vid for split in splits.values() for a in split}
    videos = dataset_videos(folder, vids)
    advice = "get them"
    if near := near_misses(folder, sorted(vids.difference(videos)))[:NAMED]:
        advice = f"rename what is meant ({', '.join(near)})"
    splits = keep_available(splits, folder, videos, None, config.data.allow_missing, advice)
    wordless = config.data.sentences == "none"
    queries = {} if wordless else sentences(splits)
    backbone = load_backbone(config.data.backbone, config.model.layers, fetch=fetch)
    if cut := describe_unread(backbone, list(queries.values())):
        logger.warning(cut)
    settings = {
        "format": VERSION,
        "backbone": backbone.fingerprint,
        "clip_length": config.data.clip_length,
        "frames_per_clip": config.data.frames_per_clip,
    }
    if config.data.store_dtype != "float16":
        settings["store"] = config.data.store_dtype  # under the name that existing folders have
    if config.data.reader != "pyav":
        settings["reader"] = config.data.reader
    path = root / "features" / digest({**settings, "annotations": config.data.annotations})
    store = _extracted(config, path, backbone, videos, queries, wait)
    available = store.video_ids, None if wordless else store.query_ids
    splits = keep_available(splits, folder, *available, config.data.allow_missing)
    _check_durations(splits, store, config.data.clip_length)
    return splits, store, backbone.preprocessing


def _extracted(
    config: Config,
    path: Path,
    backbone: Backbone,
    videos: dict[str, Path],
    queries: dict[int | str, str],
    wait: bool,
) -> FeatureStore:
    """The store at `path`, made or grown by what it lacks; what is wrong is logged."""
    data = config.data
    report = Report(strict=not data.allow_missing)
    extract = partial(
        extract_features,
        videos,
        queries,
        backbone,
        path,
        Settings(data.clip_length, data.frames_per_clip, data.store_dtype, reader=data.reader),
        resume=True,
        report=report,
    )
    # An unreadable video stays missing; that must not keep other processes from the store.
    enough = data.allow_missing and path.exists()
    if report.strict:
        _refuse_unreadable(videos, path)
    try:
        store = _when_free(extract) if wait and not enough else extract()
    except NotWritable:
        if not enough:
            raise
        return FeatureStore(path)
    for line in report.faults + report.skipped:
        logger.warning(line)
    return store


def _refuse_unreadable(videos: dict[str, Path], store: Path) -> None:
    """Refuse videos that are not in the store yet and have no readable header, all at once."""
    known = set(FeatureStore(store).video_ids) if store.exists() else set()
    new = {vid: file for vid, file in videos.items() if vid not in known}
    with ThreadPoolExecutor(READERS) as pool:
        faults = [fault for fault in pool.map(_fault_of, new.values()) if fault]
    refuse_all(faults, f"of {len(new):,} videos cannot be read")


def _fault_of(video: Path) -> str | None:
    try:
        probe(video)
    except InputError as error:
        return str(error)
    return None


def _when_free(extract: Callable[[], FeatureStore]) -> FeatureStore:
    """The store that `extract` makes, as soon as no other process works on it."""
    waiting = False
    while True:
        try:
            return extract()
        except StoreInUse as error:
            if not waiting:
                logger.warning("%s; waiting for it", error)
            waiting = True
            time.sleep(LOOK_AGAIN)


def _check_durations(splits: Splits, store: FeatureStore, clip_length: float) -> None:
    """Refuse annotations of another cut of a video than the one that was encoded.

    A damaged file may be shorter than what was annotated.
    """
    for split, queries in splits.items():
        for annotation in queries:
            _, encoded = store.extent(annotation.vid)
            if annotation.vid in store.faults and encoded < annotation.duration:
                continue
            if not close_lengths(encoded / clip_length, annotation.duration / clip_length):
                raise InputError(
                    f"{split}: qid {annotation.qid!r} says that video {annotation.vid} has "
                    f"{annotation.duration:g} s, its file has {encoded:g} s; correct the duration "
                    "or take the file that was annotated"
                )
