"""Features that are published as files, packed into a store or not, or planted."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from sdst.config import Config
from sdst.data.feature_files import LAYOUTS, FeatureFiles
from sdst.data.planted.features import PlantedFeatures
from sdst.data.store.reader import FeatureSource, FeatureStore
from sdst.sources.splits import Splits, keep_available, sentences

logger = logging.getLogger(__name__)


def published(config: Config, root: Path, splits: Splits) -> tuple[Splits, FeatureSource]:
    """Features from files: packed ones where there are, else the files themselves."""
    packed = packed_path(config, root)
    if packed.exists():
        store = FeatureStore(packed)
        wordless = config.data.sentences == "none"
        available = store.video_ids, None if wordless else store.query_ids
        again = "python -m sdst.convert with the same options packs what is new"
        return keep_available(splits, packed, *available, config.data.allow_missing, again), store
    if not config.data.planted:
        logger.warning(
            "%s: feature files are read one by one, which slows training; "
            "`python -m sdst.convert` with the same options packs them once",
            root,
        )
    splits, files = open_files(config, root, splits)
    if isinstance(files, FeatureFiles):
        files.check()  # before a training finds the bad ones, one after the other
    return splits, files


def open_files(config: Config, root: Path, splits: Splits) -> tuple[Splits, FeatureSource]:
    """The feature files that `config.data` names, and the splits as far as they have some.

    `data.planted` makes up what would be in the files.
    """
    data = config.data
    if data.planted:
        return splits, _planted(config, root, splits)
    wordless = data.sentences == "none"
    files = FeatureFiles(
        data.features,
        root,
        data.video_features,
        None if wordless else data.text_features,
        {a.vid: a.duration for split in splits.values() for a in split},
        () if wordless else sentences(splits),
        data.clip_length,
        data.endpoints,
        data.every,
    )
    available = files.video_ids, None if wordless else files.query_ids
    return keep_available(splits, root, *available, data.allow_missing), files


def files_identity(config: Config) -> dict:
    """The settings that decide the content of feature files packed into a store; its `meta`."""
    data = config.data
    names = ("features", "video_features", "text_features", "endpoints", "clip_length")
    identity = {name: getattr(data, name) for name in names}
    if data.every > 1:
        identity["every"] = data.every
    if data.planted:
        model = config.model
        identity |= {
            "planted": config.planted.identity(),
            "shape": [model.layers, model.video_width, model.text_width],
            "annotations": data.annotations,
            "limit": data.limit,  # which changes how rare a word is
        }
    return identity


def packed_path(config: Config, root: Path) -> Path:
    """Where `sdst.convert` packs feature files, and where training looks for them."""
    return root / "features" / f"{config.data.features}-{digest(files_identity(config))}"


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


def digest(identity: dict) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
