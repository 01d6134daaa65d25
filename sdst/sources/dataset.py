"""A dataset ready to train on: its annotations and its features, made on first use."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from sdst.config import FROM_FEATURES, Config
from sdst.data.annotations import Annotation
from sdst.data.feature_files import FeatureFiles, fewest_clips
from sdst.data.joined import JoinedQueries
from sdst.data.planted.features import PlantedFeatures
from sdst.data.samples import GroundingDataset, is_in_sight
from sdst.data.store.reader import FeatureSource, FeatureStore, require
from sdst.errors import InputError
from sdst.files.cache_folder import cache_dir
from sdst.sources.encoded import encoded
from sdst.sources.files import files_identity, published
from sdst.sources.layers import LastLayers
from sdst.sources.splits import Splits, annotations_digest, read_splits
from sdst.sources.wordless import WithoutSentences

logger = logging.getLogger(__name__)

MOST = 0.95  # of the training videos, and of their moments
FULL_RUN, ENOUGH_STEPS = 30, 300  # epochs, and steps of the optimiser in them
DEVICE_SHARE = 0.5  # of a GPU's free memory that features may take


@dataclass
class Data:
    """The splits that a dataset has, over one source of features.

    Attributes:
        source: features of all splits.
        meta: what decides what the features are: the backbone and its settings, or the files; and
            the annotations that are learned from.
        config: the one that was opened, with what it leaves open (`LEFT_OPEN`) decided.
        others: the datasets under `data.also`, by name, where they were opened
            (`sdst.sources.joined`).
    """

    splits: Splits
    source: FeatureSource
    meta: dict
    config: Config
    others: dict[str, Data] = field(default_factory=dict)

    def has_truth(self, split: str) -> bool:
        """Whether there is such a split, and it can be evaluated on."""
        found = self.splits.get(split)
        return found is not None and all(a.has_truth for a in found)

    def dataset(self, split: str) -> GroundingDataset:
        """The queries of `split` with their features."""
        if split not in self.splits:
            file = self.config.data.annotations.get(split)
            missing = f"no {file} in {self.config.data.root}; " if file else ""
            raise InputError(
                f"split {split!r}: {missing}the dataset has {', '.join(self.splits)}; choose one "
                "of these"
            )
        config = self.config
        return GroundingDataset(
            self.splits[split],
            self.source,
            config.data.clip_length,
            config.model.layers,
            config.train.seed,
        )

    def training(self) -> GroundingDataset | JoinedQueries:
        """The queries that are learned from, those of other datasets among them."""
        own = self.dataset("train")
        if not self.others:
            return own
        weights = self.config.data.also.values()
        others = [other.dataset("train") for other in self.others.values()]
        parts = [(own, 1.0), *zip(others, weights, strict=True)]
        return JoinedQueries(parts, self.config.train.seed)

    def final_split(self) -> str:
        """The split that a finished model is evaluated on."""
        return "test" if self.has_truth("test") else "val"


def open_data(
    config: Config, wait: bool = True, fetch: bool = True, for_training: bool = False
) -> Data:
    """Render (the demo), encode and open what `config.data` names; each only if not yet done.

    Args:
        wait: for another process that is encoding the same, a run of another seed, say.
        fetch: the backbone may be downloaded; not for a name that only a checkpoint gives.
        for_training: the features are read many times, so that `data.on_device` is worth it.

    Raises:
        StoreInUse: another process is encoding the same, and `wait` is not set.
    """
    root = dataset_root(config)
    splits = read_splits(config, root)
    if config.data.features == "encode":
        splits, source, preprocessing = encoded(config, root, splits, wait, fetch)
        meta = {**source.meta, "preprocessing": preprocessing}
    else:
        splits, source = published(config, root, splits)
        meta = files_identity(config)
    if isinstance(source, FeatureStore):
        source = _placed(source, config, for_training)
    if not isinstance(source, PlantedFeatures):
        splits["train"] = _in_sight(splits["train"], source, config.data.clip_length)
    kept = 1 if config.data.last_layer else config.model.layers
    if source.shapes["layers"] > kept:
        source = LastLayers(source, kept)
    if config.data.sentences == "none":
        known = config.model.text_width, source.shapes.get("text_width", 0)
        source = WithoutSentences(source, next(filter(None, known), 1))
    config = _with_stretches(_with_widths(config, source), splits["train"])
    config = _with_epochs(config, len(splits["train"]))
    require(
        source,
        layers=config.model.layers,
        video_width=config.model.video_width,
        text_width=config.model.text_width,
    )
    meta = {**meta, "queries": annotations_digest(config, root)}
    return Data(splits, source, meta, config)


def dataset_root(config: Config) -> Path:
    """The dataset's folder; the demo renders itself into it first."""
    if config.data.dataset == "demo":
        from sdst.demo import prepare_demo

        root = Path(config.data.root or cache_dir() / "demo")
        return prepare_demo(root)
    if not config.data.root:
        raise InputError("data.dataset is custom; name its folder with --data.root DIR")
    root = Path(config.data.root)
    if not root.is_dir():
        raise InputError(f"data.root {root}: no such folder; name the dataset's with --data.root")
    return root


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
    clips = {vid: _clips(source, vid) for vid in {a.vid for a in doubtful}}
    lost = {a.qid for a in doubtful if not is_in_sight(a, clips[a.vid], clip_length)}
    if len(lost) == len(queries):
        raise InputError(f"{source.path}: no moment of train is within its video's features")
    if lost:
        logger.warning(
            "%s: %d of %d queries of train ask for moments behind the end of their video's "
            "features; they are left out",
            source.path,
            len(lost),
            len(queries),
        )
    return [a for a in queries if a.qid not in lost]


def _clips(source: FeatureSource, vid: str) -> int:
    """How many a video has; a store's features are not read for that."""
    if isinstance(source, FeatureStore):
        return source.extent(vid)[0]
    return source.video(vid).tokens.shape[1]


def _placed(store: FeatureStore, config: Config, for_training: bool) -> FeatureStore:
    """`store` as `data.on_device` says; where it is not met, only a request is worth a line."""
    if config.data.on_device == "auto":
        elsewhere = config.train.workers or config.data.also  # a batch is of one store there
        if not for_training or elsewhere or _hindrance(store):
            return store
    elif not config.data.on_device:
        return store
    elif hindrance := _hindrance(store):
        logger.warning("data.on_device: %s; %s stays a memory map", hindrance, store.path)
        return store
    return _on_device(store)


def _hindrance(store: FeatureStore) -> str | None:
    """Why `store` cannot be in the memory of a GPU; None if it can."""
    if not torch.cuda.is_available():
        return "no GPU here"
    free, _ = torch.cuda.mem_get_info()
    if store.nbytes > DEVICE_SHARE * free:
        return f"{store.nbytes / 1e9:.1f} GB are more than half of the GPU's free {free / 1e9:.1f}"
    return None


def _on_device(store: FeatureStore) -> FeatureStore:
    return FeatureStore(store.path, torch.device("cuda", torch.cuda.current_device()))


def _with_widths(config: Config, source: FeatureSource) -> Config:
    """`config` with the widths that it leaves to the features (0)."""
    left_open = {
        name: source.shapes[name]
        for name in ("video_width", "text_width")
        if getattr(config.model, name) == FROM_FEATURES
    }
    return replace(config, model=replace(config.model, **left_open))


def _with_epochs(config: Config, queries: int) -> Config:
    """`config` with the length of its training, where it leaves that to the number of queries."""
    train = config.train
    epochs, validate_every = train.epochs, train.validate_every
    if epochs == "auto":
        steps = max(queries // train.batch_size, 1)
        epochs = max(FULL_RUN, math.ceil(ENOUGH_STEPS / steps))
    if validate_every == "auto":
        validate_every = math.ceil(epochs / FULL_RUN)
    return replace(config, train=replace(train, epochs=epochs, validate_every=validate_every))


def _with_stretches(config: Config, queries: list[Annotation]) -> Config:
    """`config` with the windows that long videos are processed in, where it leaves them open.

    A window is as long as most videos of the training, and most moments fit into an overlap.
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
