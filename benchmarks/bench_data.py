"""Time that a training step waits for its batch: from the packed store, and from its files.

The paper's configuration on QVHighlights at its real shapes: 128 videos of 75 clips, five layers.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.measuring.interleave import interleave, ratio
from sdst.config import load_config
from sdst.convert import convert
from sdst.sources.dataset import Data, open_data
from sdst.training.loader import make_loader
from sdst.training.run_folder import RunFolder
from sdst.training.trainer import Trainer, make_accelerator

VIDEOS = {"train": 200, "val": 8}
CLIPS, LAYERS, VIDEO_WIDTH, TEXT_WIDTH = 75, 5, 768, 1024
ROUNDS, STEPS = 3, 2


def write_dataset(root: Path) -> None:
    """Annotations and compressed feature files as SDST releases them, of random numbers."""
    rng = np.random.default_rng(0)
    for folder in ("video", "text"):
        (root / "internvideo2" / folder).mkdir(parents=True)
    for split, videos in VIDEOS.items():
        lines = []
        for number in range(videos):
            name = f"{split}{number}"
            video = rng.standard_normal((CLIPS, LAYERS, VIDEO_WIDTH), np.float32)
            text = rng.standard_normal((LAYERS, rng.integers(8, 45), TEXT_WIDTH), np.float32)
            file = root / "internvideo2" / "video" / f"{name}.npz"
            np.savez_compressed(file, visual_feats_interm_pooled=video)
            np.savez_compressed(root / "internvideo2" / "text" / f"{name}.npz", text_feats=text)
            lines.append(
                {
                    "qid": name,
                    "query": "random numbers",
                    "vid": name,
                    "duration": 2.0 * CLIPS,
                    "relevant_windows": [[20, 60]],
                }
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"highlight_{split}_release.jsonl").write_text(text)


def step_seconds(data: Data, folder: Path) -> float:
    """Median time of a whole optimiser step on a batch in memory."""
    trainer = Trainer(data.config, data, RunFolder(folder), make_accelerator(data.config, folder))
    batch = next(iter(trainer.loader))
    trainer.train_step(batch)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        trainer.train_step(batch)["loss"].item()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def bench_waiting_for_data(benchmark, tmp_path: Path) -> None:
    write_dataset(tmp_path)
    config = load_config("qvhighlights_internvideo2", ["--data.root", str(tmp_path)])
    files = open_data(config)
    convert(config, progress=False)
    store = open_data(config)
    loaders = {
        name: make_loader(data.dataset("train"), config)
        for name, data in {"store": store, "files": files}.items()
    }
    seconds = interleave(
        {name: lambda loader=loader: next(iter(loader)) for name, loader in loaders.items()}, ROUNDS
    )
    step = step_seconds(store, tmp_path / "run")
    wait = {name: statistics.median(found) for name, found in seconds.items()}
    share = {name: 100 * found / (found + step) for name, found in wait.items()}
    benchmark.group = "waiting for data, batch 128"
    benchmark.extra_info |= {
        "against files": ratio(seconds["files"], seconds["store"]),
        "step seconds": step,
        "percent of a step": share,
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(lambda: next(iter(loaders["store"])), rounds=ROUNDS)
    print(
        f"\nstep {step:.2f} s; waits {1e3 * wait['store']:.0f} ms for the store "
        f"({share['store']:.1f} %), {1e3 * wait['files']:.0f} ms for files ({share['files']:.1f} %)"
    )
