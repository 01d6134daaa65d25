"""`python -m benchmarks.studies.tuning.accuracy STRATEGY`: one strategy, trained on the demo."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from benchmarks.studies.runs import TEST_VIDEOS, demo_of_tests
from benchmarks.studies.tuning.pictures import Pictures, picture_backbone
from benchmarks.studies.tuning.strategies import STRATEGIES, OnPictures, Training
from sdst.config import Config, load_config
from sdst.data.batches import Batch, collate
from sdst.data.samples import GroundingDataset
from sdst.data.video_files import dataset_videos
from sdst.errors import run
from sdst.evaluation import evaluate
from sdst.files.publish import replace_text
from sdst.grounding.predict import predict
from sdst.sources.dataset import Data, dataset_root, open_data

WARMUP = 1 / 7  # share of the steps, the demo's


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("strategy", choices=STRATEGIES)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16, help="queries per step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=TEST_VIDEOS, help="test videos of every run")
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.json")
    options = parser.parse_args()
    result = train(options.strategy, options.steps, options.batch, options.seed, options.videos)
    replace_text(options.output, json.dumps(result, indent=2) + "\n")


def train(name: str, steps: int, batch_size: int, seed: int, videos: int) -> dict:
    """Train `steps` steps; the report on so many test videos, and the CPU seconds of the steps."""
    config = load_config("demo")
    config.train.seed, config.train.batch_size = seed, batch_size
    config.train.warmup_steps = max(round(WARMUP * steps), 1)
    data, tests = open_data(config), demo_of_tests(videos)
    set_seed(seed)
    training = Training(STRATEGIES[name], config, steps)
    if isinstance(training.model, OnPictures):
        data, tests = (replace(x, source=pictures_of(x)) for x in (data, tests))
    losses, seconds = [], 0.0
    for batch in tqdm(batches(data.dataset("train"), config, steps), total=steps, desc=name):
        start = time.process_time()
        losses.append(training.step(batch))
        seconds += time.process_time() - start
    dataset = tests.dataset("test")
    records = predict(training.model, dataset, config.train.batch_size, progress=False)
    report = evaluate(records, dataset.annotations, config.data.clip_length)
    return {
        "strategy": name,
        "steps": steps,
        "batch": batch_size,
        "seed": seed,
        "videos": videos,
        "seconds": seconds,
        "losses": losses,
        "brief": report["brief"],
    }


def pictures_of(data: Data) -> Pictures:
    """The frames of the dataset's videos, decoded on first use."""
    config, root = data.config, dataset_root(data.config)
    annotations = [a for split in data.splits.values() for a in split]
    return Pictures(
        root / "pictures",
        dataset_videos(root / "videos", {a.vid for a in annotations}),
        {a.qid: a.query for a in annotations},
        picture_backbone(config, 1),
        config.data.clip_length,
    )


def batches(dataset: GroundingDataset, config: Config, steps: int) -> Iterator[Batch]:
    """Shuffled batches, the same for every strategy."""
    generator = torch.Generator().manual_seed(config.train.seed)
    loader = DataLoader(
        dataset,
        config.train.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        generator=generator,
    )
    while steps > 0:
        for batch, _ in zip(loader, range(steps), strict=False):
            yield batch
            steps -= 1
        dataset.epoch += 1


if __name__ == "__main__":
    run(main)
