"""A training run that takes a second: a small model on random features, without validations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState
from tqdm import tqdm

from sdst.config import load_config
from sdst.data.annotations import Annotation
from sdst.data.samples import GroundingDataset
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.sources.dataset import Data
from sdst.training.run_folder import RunFolder
from sdst.training.trainer import Trainer, make_accelerator
from tests.features import DT, DV, META, K, text_features, video_features

QUERIES = 24
OPTIONS = {
    "model.layers": K,
    "model.video_width": DV,
    "model.text_width": DT,
    "model.width": 32,
    "model.queries": 4,
    "model.schedule": [2, 1, 1],
    "model.context_tokens": 8,
    "model.dropout": 0.1,
    "train.batch_size": 8,
    # These learning rates move and have few digits in binary: a device holds them in fp32.
    "train.lr": 2**-10,
    "train.warmup_steps": 16,
    "train.decay_at": 1,
    "train.lr_schedule": "step",
    "train.tracker": "none",
    "data.pad_to": 16,
}


def write_store(folder: Path) -> Path:
    """Features of videos and sentences of several lengths."""
    with FeatureWriter(folder / "store", META) as writer:
        for i in range(QUERIES):
            tokens, embedding = video_features(5 + i % 9, i)
            writer.add_video(f"v{i}", 2.0 * (5 + i % 9), tokens, embedding)
            writer.add_query(i, *text_features(2 + i % 5, i))
    return folder / "store"


def make_trainer(
    folder: Path, overrides: Sequence[str] = (), device: torch.device | None = None
) -> Trainer:
    """Ready to train on the store in `folder`, from its map or from the memory of `device`."""
    options = [part for key, value in OPTIONS.items() for part in (f"--{key}", str(value))]
    config = load_config("demo", [*options, *overrides])
    source = FeatureStore(folder / "store", device)
    annotations = []
    for i in range(QUERIES):
        seconds = 2.0 * (5 + i % 9)
        window = (0.2 * seconds, 0.6 * seconds)
        annotations.append(Annotation(i, "a query", f"v{i}", seconds, (window,)))

    def dataset(split: str) -> GroundingDataset:
        return GroundingDataset(annotations, source, 2.0, K)

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    opened = SimpleNamespace(dataset=dataset, training=lambda: dataset("train"), config=config)
    data = cast(Data, opened)
    accelerator = make_accelerator(config, folder)
    return Trainer(config, data, RunFolder(folder / "run"), accelerator)


def train(trainer: Trainer, epochs: Sequence[int]) -> list[dict[str, float]]:
    """The mean losses of every epoch."""
    losses = []
    for epoch in epochs:
        losses.append(trainer.train_epoch(epoch, tqdm(disable=True))[0])
    return losses


def weights(trainer: Trainer) -> dict[str, np.ndarray]:
    """A copy of the model's."""
    return {name: x.numpy().copy() for name, x in trainer.bare_model.state_dict().items()}
