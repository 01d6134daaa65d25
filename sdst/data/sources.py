"""A dataset ready to train on: its annotations and its features, made on first use."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from sdst.backbones import load_backbone
from sdst.config import Config, cache_dir
from sdst.data.annotations import Annotation, read_annotations
from sdst.data.batches import GroundingDataset
from sdst.data.features import FeatureStore, require
from sdst.errors import InputError
from sdst.extract import extract_features

SPLITS = ("train", "val", "test")


@dataclass
class Data:
    """The splits that a dataset has, over one feature store."""

    splits: dict[str, list[Annotation]]
    store: FeatureStore
    config: Config

    def dataset(self, split: str) -> GroundingDataset:
        """The queries of `split` with their features."""
        if split not in self.splits:
            raise InputError(
                f"split {split!r}: the dataset has {', '.join(self.splits)}; choose one of these"
            )
        config = self.config
        return GroundingDataset(
            self.splits[split], self.store, config.data.clip_length, config.train.seed
        )


def open_data(config: Config) -> Data:
    """Render (the demo), encode and open what `config.data` names; each only if not yet done."""
    root = dataset_root(config)
    splits = {
        split: read_annotations(root / f"{split}.jsonl")[: config.data.limit]
        for split in SPLITS
        if (root / f"{split}.jsonl").is_file()
    }
    if missing := [split for split in ("train", "val") if split not in splits]:
        raise InputError(
            f"{root}: {missing[0]}.jsonl not found; a dataset is a folder with videos/, "
            "train.jsonl, val.jsonl and optionally test.jsonl"
        )
    store = _open_store(config, root, splits)
    require(
        store,
        layers=config.model.layers,
        video_width=config.model.video_width,
        text_width=config.model.text_width,
    )
    return Data(splits, store, config)


def dataset_root(config: Config) -> Path:
    """The dataset's folder; the demo renders itself into it first."""
    if config.data.dataset == "demo":
        from sdst.data.demo import prepare_demo

        return prepare_demo(Path(config.data.root or cache_dir() / "demo"))
    root = Path(config.data.root)
    if not root.is_dir():
        raise InputError(f"data.root {root}: no such folder")
    return root


def find_videos(folder: Path, vids: set[str]) -> dict[str, Path]:
    """The file of every video id, `<vid>.<any ending>` below `folder`.

    Raises:
        InputError: the folder or a video is missing, naming how many are.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; the dataset's videos are expected there")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.stem in vids}
    if missing := sorted(vids - set(found)):
        raise InputError(
            f"{folder}: {len(missing)} of {len(vids)} annotated videos not found "
            f"(first: {missing[0]}.*)"
        )
    return found


def _open_store(config: Config, root: Path, splits: dict[str, list[Annotation]]) -> FeatureStore:
    """The feature store of these queries and videos, extracted on first use."""
    queries = _queries(splits)
    videos = find_videos(root / "videos", {a.vid for split in splits.values() for a in split})
    backbone = load_backbone(config.data.backbone, config.model.layers)
    settings = {
        "backbone": backbone.fingerprint,
        "clip_length": config.data.clip_length,
        "frames_per_clip": config.data.frames_per_clip,
    }
    identity = {
        **settings,
        "queries": [[str(qid), query] for qid, query in queries.items()],
        "videos": [[vid, *_file_identity(path)] for vid, path in videos.items()],
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = root / "features" / digest[:16]
    if path.exists():
        return FeatureStore(path)
    return extract_features(
        videos,
        queries,
        backbone,
        path,
        clip_length=config.data.clip_length,
        frames_per_clip=config.data.frames_per_clip,
    )


def _file_identity(path: Path) -> tuple[int, int]:
    """Size and time of change: another file under the same name is encoded anew."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _queries(splits: dict[str, list[Annotation]]) -> dict[int | str, str]:
    """Every query by its id; one id may stand for one sentence only."""
    queries: dict[int | str, str] = {}
    for split in splits:
        for annotation in splits[split]:
            if queries.setdefault(annotation.qid, annotation.query) != annotation.query:
                raise InputError(
                    f"{split}.jsonl: qid {annotation.qid} stands for another query in an earlier "
                    "split; give every query an id of its own"
                )
    return queries
