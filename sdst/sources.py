"""A dataset ready to train on: its annotations and its features, made on first use."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sdst.backbones import Backbone, load_backbone
from sdst.config import FROM_FEATURES, Config, cache_dir
from sdst.data.annotations import Annotation, read_annotations
from sdst.data.batches import GroundingDataset, is_in_sight
from sdst.data.feature_writer import NotWritable, StoreInUse
from sdst.data.features import VERSION, FeatureSource, FeatureStore, require
from sdst.data.files import LAYOUTS, FeatureFiles, close_lengths, fewest_clips
from sdst.data.planted import PlantedFeatures
from sdst.data.video_files import dataset_videos, near_misses
from sdst.errors import InputError
from sdst.extraction import Report, extract_features

logger = logging.getLogger(__name__)

NAMED = 10  # of what is missing; the rest is counted
MOST = 0.95  # of the training videos, and of their moments
DEVICE_SHARE = 0.5  # of a GPU's free memory that features may take
LOOK_AGAIN = 1.0  # seconds until a store that another process writes is tried again

Splits = dict[str, list[Annotation]]


@dataclass
class Data:
    """The splits that a dataset has, over one source of features.

    Attributes:
        source: features of all splits.
        meta: what decides what the features are: the backbone and its settings, or the files.
        config: the one that was opened, with what it leaves open (`LEFT_OPEN`) decided.
    """

    splits: Splits
    source: FeatureSource
    meta: dict
    config: Config

    def has_truth(self, split: str) -> bool:
        """Whether there is such a split, and it can be evaluated on."""
        found = self.splits.get(split)
        return found is not None and all(a.has_truth for a in found)

    def dataset(self, split: str) -> GroundingDataset:
        """The queries of `split` with their features."""
        if split not in self.splits:
            raise InputError(
                f"split {split!r}: the dataset has {', '.join(self.splits)}; choose one of these"
            )
        config = self.config
        return GroundingDataset(
            self.splits[split],
            self.source,
            config.data.clip_length,
            config.model.layers,
            config.train.seed,
        )


def open_data(config: Config, wait: bool = True) -> Data:
    """Render (the demo), encode and open what `config.data` names; each only if not yet done.

    Args:
        wait: for another process that is encoding the same, a run of another seed, say.

    Raises:
        StoreInUse: another process is encoding the same, and `wait` is not set.
    """
    root = dataset_root(config)
    splits = read_splits(config, root)
    if config.data.features == "encode":
        splits, source = _encoded(config, root, splits, wait)
        meta = source.meta
    else:
        splits, source = _published(config, root, splits)
        meta = files_identity(config)
    if config.data.on_device and isinstance(source, FeatureStore):
        source = _on_device(source)
    if not isinstance(source, PlantedFeatures):
        splits["train"] = _in_sight(splits["train"], source, config.data.clip_length)
    config = _with_stretches(_with_widths(config, source), splits["train"])
    require(
        source,
        layers=config.model.layers,
        video_width=config.model.video_width,
        text_width=config.model.text_width,
    )
    return Data(splits, source, meta, config)


def dataset_root(config: Config) -> Path:
    """The dataset's folder; the demo renders itself into it first."""
    if config.data.dataset == "demo":
        from sdst.data.demo import prepare_demo

        root = Path(config.data.root or cache_dir() / "demo")
        return prepare_demo(root, processes=len(os.sched_getaffinity(0)))
    if not config.data.root:
        raise InputError("data.dataset is custom; name its folder with --data.root DIR")
    root = Path(config.data.root)
    if not root.is_dir():
        raise InputError(f"data.root {root}: no such folder; name the dataset's with --data.root")
    return root


def read_splits(config: Config, root: Path) -> Splits:
    """The annotations of every split whose file is there.

    Raises:
        InputError: the file of `train` or `val` is missing, or one of its queries is unlabelled.
    """
    data = config.data
    files = {split: root / name for split, name in data.annotations.items()}
    splits = {
        split: _of_domain(read_annotations(file, clip_length=data.clip_length), data.domain, file)
        for split, file in files.items()
        if file.is_file()
    }
    splits = {split: annotations[: data.limit] for split, annotations in splits.items()}
    for split in ("train", "val"):
        if split not in splits:
            raise InputError(
                f"{files.get(split, root)}: no such file; data.annotations names the annotations "
                "of train, val and optionally test"
            )
        if unlabelled := [a.qid for a in splits[split] if not a.has_truth]:
            raise InputError(
                f"{files[split]}: {len(unlabelled)} queries have no relevant_windows "
                f"(first: qid {unlabelled[0]}); only test may be unlabelled"
            )
    return splits


def _of_domain(annotations: list[Annotation], domain: str | None, file: Path) -> list[Annotation]:
    """Those of `domain`, all where it is None."""
    if domain is None:
        return annotations
    if kept := [a for a in annotations if a.domain == domain]:
        return kept
    found = sorted({a.domain for a in annotations if a.domain}) or ["none"]
    raise InputError(f"{file}: no video of data.domain {domain}; its domains: {', '.join(found)}")


def open_files(config: Config, root: Path, splits: Splits) -> tuple[Splits, FeatureSource]:
    """The feature files that `config.data` names, and the splits as far as they have some.

    `data.planted` makes up what would be in the files.
    """
    data = config.data
    if data.planted:
        return splits, _planted(config, root, splits)
    files = FeatureFiles(
        data.features,
        root,
        data.video_features,
        data.text_features,
        {a.vid: a.duration for split in splits.values() for a in split},
        sentences(splits),
        data.clip_length,
        data.endpoints,
    )
    return keep_available(splits, root, files.video_ids, files.query_ids, data.allow_missing), files


def files_identity(config: Config) -> dict:
    """What decides the content of feature files packed into a store; its `meta`."""
    data = config.data
    names = ("features", "video_features", "text_features", "endpoints", "clip_length")
    identity = {name: getattr(data, name) for name in names}
    if data.planted:
        model = config.model
        identity |= {
            "planted": asdict(config.planted),
            "shape": [model.layers, model.video_width, model.text_width],
            "annotations": data.annotations,
            "limit": data.limit,  # which changes how rare a word is
        }
    return identity


def packed_path(config: Config, root: Path) -> Path:
    """Where `sdst.convert` packs feature files, and where training looks for them."""
    return root / "features" / f"{config.data.features}-{_digest(files_identity(config))}"


def keep_available(
    splits: Splits,
    where: Path,
    videos: Collection[str],
    queries: Collection[int | str] | None,
    allow_missing: bool,
    advice: str = "get them",
) -> Splits:
    """Splits without the annotations whose videos or queries are missing, which are listed.

    Args:
        videos, queries: what there is in `where`; None is everything.

    Raises:
        InputError: something is missing and `allow_missing` is False, or a split has nothing left.
    """
    annotations = [a for split in splits.values() for a in split]
    lists = []
    for kind, wanted, there in (
        ("videos", {a.vid for a in annotations}, videos),
        ("queries", {a.qid for a in annotations}, queries),
    ):
        if there is not None and (missing := sorted(wanted.difference(there), key=str)):
            rest = ", ..." if len(missing) > NAMED else ""
            named = ", ".join(map(str, missing[:NAMED]))
            lists.append(f"{len(missing)} of {len(wanted)} annotated {kind} ({named}{rest})")
    if not lists:
        return splits
    if not allow_missing:
        raise InputError(
            f"{where}: not found: {' and '.join(lists)}; {advice}, or go on without by "
            "--data.allow_missing true"
        )
    logger.warning("%s: left out, as not found: %s", where, " and ".join(lists))
    videos, queries = set(videos), None if queries is None else set(queries)
    kept = {
        split: [a for a in found if a.vid in videos and (queries is None or a.qid in queries)]
        for split, found in splits.items()
    }
    if empty := [split for split, found in kept.items() if not found]:
        raise InputError(f"{where}: nothing found for any query of {empty[0]}; check data.root")
    return kept


def sentences(splits: Splits) -> dict[int | str, str]:
    """Every query by its id.

    Raises:
        InputError: one id stands for two sentences.
    """
    queries: dict[int | str, str] = {}
    for split, found in splits.items():
        for annotation in found:
            if queries.setdefault(annotation.qid, annotation.query) != annotation.query:
                raise InputError(
                    f"{split}: qid {annotation.qid} stands for another query before it; give "
                    "every query an id of its own"
                )
    return queries


def _published(config: Config, root: Path, splits: Splits) -> tuple[Splits, FeatureSource]:
    """Features from files: packed ones where there are, else the files themselves."""
    packed = packed_path(config, root)
    if packed.exists():
        store = FeatureStore(packed)
        available = store.video_ids, store.query_ids
        again = "python -m sdst.convert with the same options packs what is new"
        return keep_available(splits, packed, *available, config.data.allow_missing, again), store
    if not config.data.planted:
        logger.warning(
            "%s: feature files are read one by one, which training waits for; "
            "`python -m sdst.convert` with the same options packs them once",
            root,
        )
    return open_files(config, root, splits)


def _planted(config: Config, root: Path, splits: Splits) -> PlantedFeatures:
    """Made-up features in the shapes of the files that `config.data` names."""
    data, model = config.data, config.model
    return PlantedFeatures(
        [a for split in splits.values() for a in split],
        config.planted,
        LAYOUTS[data.features],
        layers=model.layers,
        video_width=model.video_width,
        text_width=model.text_width,
        clip_length=data.clip_length,
        endpoints=data.endpoints,
        path=root,
    )


def _encoded(config: Config, root: Path, splits: Splits, wait: bool) -> tuple[Splits, FeatureStore]:
    """The feature store of these queries and videos, of which it extracts what is not there yet.

    One store serves all that is read from the same files of annotations at the same settings.
    """
    folder = root / "videos"
    vids = {a.vid for split in splits.values() for a in split}
    videos = dataset_videos(folder, vids)
    advice = "get them"
    if near := near_misses(folder, sorted(vids.difference(videos)))[:NAMED]:
        advice = f"rename what is meant ({', '.join(near)})"
    splits = keep_available(splits, folder, videos, None, config.data.allow_missing, advice)
    queries = sentences(splits)
    backbone = load_backbone(config.data.backbone, config.model.layers)
    settings = {
        "format": VERSION,
        "backbone": backbone.fingerprint,
        "clip_length": config.data.clip_length,
        "frames_per_clip": config.data.frames_per_clip,
    }
    if config.data.store != "float16":
        settings["store"] = config.data.store
    path = root / "features" / _digest({**settings, "annotations": config.data.annotations})
    store = _extracted(config, path, backbone, videos, queries, wait)
    available = store.video_ids, store.query_ids
    splits = keep_available(splits, folder, *available, config.data.allow_missing)
    _check_durations(splits, store, config.data.clip_length)
    return splits, store


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
        clip_length=data.clip_length,
        frames_per_clip=data.frames_per_clip,
        dtype=data.store,
        resume=True,
        report=report,
    )
    # What cannot be read is lacking for ever, which must not keep others from what is there.
    enough = data.allow_missing and path.exists()
    try:
        store = _when_free(extract) if wait and not enough else extract()
    except NotWritable:
        if not enough:
            raise
        return FeatureStore(path)
    for line in report.faults + report.skipped:
        logger.warning(line)
    return store


def _when_free(extract: Callable[[], FeatureStore]) -> FeatureStore:
    """What `extract` gives, as soon as no other process is at it."""
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
            encoded = store.video(annotation.vid).duration
            if annotation.vid in store.faults and encoded < annotation.duration:
                continue
            if not close_lengths(encoded / clip_length, annotation.duration / clip_length):
                raise InputError(
                    f"{split}: qid {annotation.qid!r} says that video {annotation.vid} has "
                    f"{annotation.duration:g} s, its file has {encoded:g} s; correct the duration "
                    "or take the file that was annotated"
                )


def _in_sight(
    queries: list[Annotation], source: FeatureSource, clip_length: float
) -> list[Annotation]:
    """The queries to learn from: without those that ask for what their video's features lack."""
    doubtful = queries
    if isinstance(source, FeatureFiles):  # these take long to open, and refuse other lengths
        sure = [fewest_clips(a.duration / clip_length) for a in queries]
        doubtful = [
            a for a, n in zip(queries, sure, strict=True) if not is_in_sight(a, n, clip_length)
        ]
    clips = {vid: source.video(vid).tokens.shape[1] for vid in {a.vid for a in doubtful}}
    lost = {a.qid for a in doubtful if not is_in_sight(a, clips[a.vid], clip_length)}
    if len(lost) == len(queries):
        raise InputError(f"{source.path}: no moment of train lies within its video's features")
    if lost:
        logger.warning(
            "%s: %d of %d queries of train ask for moments behind the end of their video's "
            "features; they are left out",
            source.path,
            len(lost),
            len(queries),
        )
    return [a for a in queries if a.qid not in lost]


def _on_device(store: FeatureStore) -> FeatureStore:
    """`store` in the memory of the GPU if there is one and it fits."""
    if not torch.cuda.is_available():
        logger.warning("data.on_device: no GPU here; %s stays a memory map", store.path)
        return store
    free, _ = torch.cuda.mem_get_info()
    if store.nbytes > DEVICE_SHARE * free:
        logger.warning(
            "data.on_device: %s has %.1f GB, more than half of the GPU's free %.1f GB; it stays a "
            "memory map",
            store.path,
            store.nbytes / 1e9,
            free / 1e9,
        )
        return store
    return FeatureStore(store.path, torch.device("cuda", torch.cuda.current_device()))


def _with_widths(config: Config, source: FeatureSource) -> Config:
    """`config` with the widths that it leaves to the features (0)."""
    left_open = {
        name: source.shapes[name]
        for name in ("video_width", "text_width")
        if getattr(config.model, name) == FROM_FEATURES
    }
    return replace(config, model=replace(config.model, **left_open))


def _with_stretches(config: Config, queries: list[Annotation]) -> Config:
    """`config` with the stretches that long videos are read in, where it leaves them open.

    A stretch is as long as most videos of the training, and most moments fit into an overlap.
    """
    predict, clip_length = config.predict, config.data.clip_length
    stretch, overlap = predict.stretch, predict.overlap
    if stretch is None:
        stretch = _most({a.vid: a.duration for a in queries}.values(), clip_length)
    if overlap is None:
        moments = [end - start for a in queries for start, end in a.windows or ()]
        overlap = min(_most(moments, clip_length), stretch // 2)
    if overlap >= stretch:
        raise InputError(
            f"predict.overlap is {overlap}, expected less than the {stretch} clips that most "
            "training videos have; lower it, or give predict.stretch"
        )
    return replace(config, predict=replace(predict, stretch=stretch, overlap=overlap))


def _most(seconds: Iterable[float], clip_length: float) -> int:
    """Clips that are enough for `MOST` of these lengths; 0 where there are none."""
    seconds = list(seconds)
    return math.ceil(np.quantile(seconds, MOST) / clip_length) if seconds else 0


def _digest(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
