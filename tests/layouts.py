"""Datasets as a user has them on disk: annotations, and features in a layout of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdst import train
from sdst.training.trainer import Trainer

CLIP_LENGTH = 2.0
SPLITS = {"train": range(8), "val": range(8, 12)}
WIDTHS = {  # of what `write_features` writes
    "sdst": (16, 24),
    "moment_detr": (12 + 20, 24),
    "univtg": (32, 24),
    "univtg_two_streams": (12 + 20, 24),
    "r2_tuning": (768, 512),
}


def clips_of(vid: str) -> int:
    return 5 + int(vid.removeprefix("v")) % 3


def write_annotations(root: Path) -> None:
    """Two queries on every video."""
    root.mkdir(parents=True, exist_ok=True)
    for split, videos in SPLITS.items():
        lines = []
        for video in videos:
            duration = CLIP_LENGTH * clips_of(f"v{video}")
            for half in (0, 1):
                window = [half * duration / 2, (half + 1) * duration / 2]
                lines.append(
                    {
                        "qid": 2 * video + half,
                        "query": f"half {half} of the video",
                        "vid": f"v{video}",
                        "duration": duration,
                        "relevant_windows": [window],
                    }
                )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"{split}.jsonl").write_text(text)


def write_labels(root: Path) -> None:
    """A query on every video, its clips labelled by three annotators; two topics in turn."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for split, videos in SPLITS.items():
        lines = [
            {
                "qid": video,
                "query": "the best of the video",
                "vid": f"v{video}",
                "duration": clips_of(f"v{video}"),  # as TVSum has it
                "domain": ("BK", "VT")[video % 2],
                "label": rng.integers(1, 6, (clips_of(f"v{video}"), 3)).tolist(),
            }
            for video in videos
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"{split}.jsonl").write_text(text)


def write_features(root: Path, layout: str, seed: int = 0) -> list[str]:
    """Random features of every video and query; the options that name them."""
    rng = np.random.default_rng(seed)
    vids = [f"v{i}" for split in SPLITS.values() for i in split]
    qids = range(2 * len(vids))

    def save(path: str, **arrays: Any) -> None:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".npz":
            np.savez_compressed(file, **arrays)
        else:
            [array] = arrays.values()
            np.save(file, array)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    for vid in vids:
        clips = clips_of(vid)
        if layout == "sdst":
            save(f"video/{vid}.npz", visual_feats_interm_pooled=normal(clips, 5, 16))
        elif layout == "moment_detr":
            save(f"slowfast/{vid}.npz", features=normal(clips + 1, 20))
            save(f"clip/{vid}.npz", features=normal(clips, 12).astype(np.float16))
        elif layout == "univtg":
            save(f"video/{vid}.npy", features=normal(clips, 32))
        elif layout == "univtg_two_streams":
            save(f"video/{vid}_rgb.npy", features=normal(clips, 20))
            save(f"video/{vid}_opt.npy", features=normal(clips, 12))
        elif layout == "r2_tuning":
            tokens = normal(clips, 4, 50, 768).astype(np.float16)
            save(f"video/{vid}.npy", features=tokens.reshape(clips, -1))
    for qid in qids:
        tokens = 4 + qid % 3
        if layout == "sdst":
            save(f"text/{qid}.npz", text_feats=normal(5, tokens, 24))
        elif layout == "r2_tuning":
            save(f"text/{qid}.npy", text=normal(tokens, 4, 512).astype(np.float16))
        else:
            save(f"text/qid{qid}.npz", last_hidden_state=normal(tokens, 24))
    folders = ["slowfast", "clip"] if layout == "moment_detr" else ["video"]
    options = {
        "data.dataset": "custom",
        "data.root": root,
        "data.features": "univtg" if layout.startswith("univtg") else layout,
        "data.video_features": json.dumps(folders),
        "data.text_features": "text",
        "data.clip_length": CLIP_LENGTH,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


def train_in_two_sittings(
    monkeypatch: pytest.MonkeyPatch, output: Path, options: list[str]
) -> None:
    """`sdst.train`, stopped in its second epoch and taken up again."""
    run_epoch = Trainer.train_epoch

    def stop_in_the_second(self, epoch, bar):
        if epoch == 2:
            raise InterruptedError
        return run_epoch(self, epoch, bar)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Trainer, "train_epoch", stop_in_the_second)
        train.main(["--output", str(output), *options])
    assert train.main(["--output", str(output), "--resume", *options]) == 0


def training_options(layout: str) -> list[str]:
    """Of a run of two epochs that takes seconds."""
    video_width, text_width = WIDTHS[layout]
    options = {
        "model.layers": 5 if layout == "sdst" else 4,
        "model.schedule": "null",
        "model.video_width": video_width,
        "model.text_width": text_width,
        "model.width": 32,
        "model.queries": 4,
        "train.epochs": 2,
        "train.batch_size": 8,
        "train.warmup_steps": 2,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]
