"""`python -m benchmarks.tuning.cost SETUP STRATEGY`: what one strategy costs, measured alone.

A process of its own per strategy, so that none finds memory or warm pages that another has left.
Features and pictures are random numbers; what they cost does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.memory import peak_memory
from benchmarks.tuning.strategies import STRATEGIES, OnPictures, Strategy, Training, with_backbone
from sdst.config import Config, load_config
from sdst.data.batches import Batch
from sdst.data.jsonl import replace_text
from sdst.errors import run
from sdst.model import parameter_count
from sdst.predict import decode


@dataclass(frozen=True)
class Setup:
    """A backbone and the sizes of its data.

    Args:
        title: what the tables call it.
        recipe: packaged config of the model and its training.
        backbone: its `data.backbone`.
        patches: tokens of a picture, CLS included.
        clips: per video.
        words: tokens of a query.
        batch: queries per training step.
        queries: answered one by one, of which the median time is taken.
    """

    title: str
    recipe: str
    backbone: str
    patches: int
    clips: int
    words: int
    batch: int
    queries: int

    @property
    def config(self) -> Config:
        return load_config(self.recipe, ["--data.backbone", self.backbone])


SETUPS = {
    "demo": Setup("demo backbone", "demo", "demo", 17, 40, 9, 16, 20),
    "vit": Setup("ViT-B/32", "qvhighlights_clip_b32_patches", "ViT-B-32", 50, 75, 20, 1, 3),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("strategy", choices=STRATEGIES)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*random weights")
    result = measure(SETUPS[options.setup], STRATEGIES[options.strategy], options.steps)
    replace_text(options.output, json.dumps(result, indent=2) + "\n")


def measure(setup: Setup, strategy: Strategy, steps: int) -> dict[str, float]:
    """Trainable parameters, and seconds and bytes.

    Returns:
        `trainable` parameters; `step`, CPU seconds of a training step, its batch at hand; `peak`,
        bytes that weights, gradients, optimiser and two steps need at their peak; `query`, CPU
        seconds from pictures and token ids to moments; `head`, the same from features.
    """
    step, trainable, query, head = _seconds(setup, strategy, steps)
    batch = random_batch(setup, Training(strategy, setup.config, steps), setup.batch)

    def train_from_nothing() -> None:
        training = Training(strategy, setup.config, steps)
        for _ in range(2):
            training.step(batch)

    peak = peak_memory(train_from_nothing)
    return {"trainable": trainable, "step": step, "peak": peak, "query": query, "head": head}


def _seconds(setup: Setup, strategy: Strategy, steps: int) -> tuple[float, int, float, float]:
    """See `measure`; nothing of it stays in memory."""
    training = Training(strategy, setup.config, steps)
    batch = random_batch(setup, training, setup.batch)
    step = median_seconds(lambda: training.step(batch), steps)
    trainable = sum(parameter_count(training.model).values())
    return step, trainable, *query_seconds(setup, training, setup.queries)


@torch.inference_mode()
def query_seconds(setup: Setup, training: Training, queries: int) -> tuple[float, float]:
    """CPU seconds of one query on one video: from pictures and token ids, and from features."""
    model = with_backbone(training.model, setup.config).eval()
    model.merge()
    pictures = pictures_batch(setup, model, 1)
    features = features_batch(setup, training, 1)
    head = model.head.eval()
    layers = head.config.layers

    def answer(ask: Callable[[], object]) -> Callable[[], object]:
        seconds = [setup.clips * 2.0]
        return lambda: decode(ask(), features.video_lengths, seconds, 2.0)

    def from_features() -> object:
        video, text, *lengths = features.inputs()
        return head(video[:, -layers:], text[:, -layers:], *lengths)

    return (
        median_seconds(answer(lambda: model(*pictures.inputs())), queries),
        median_seconds(answer(from_features), 10 * queries),
    )


def median_seconds(call: Callable[[], object], rounds: int) -> float:
    """Median CPU time of a call, all threads together; other work on the machine is not in it."""
    seconds = []
    for _ in range(rounds + 1):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])


def random_batch(setup: Setup, training: Training, size: int) -> Batch:
    """What a training step takes: pictures where the backbone trains, else features."""
    if isinstance(training.model, OnPictures):
        return pictures_batch(setup, training.model, size)
    return features_batch(setup, training, size)


def pictures_batch(setup: Setup, model: OnPictures, size: int) -> Batch:
    """Pictures and token ids, see `Pictures`."""
    height, width = model.backbone.image_size
    shape = (size, 1, setup.clips, 1, 3 * height * width)
    ids = torch.randint(1, model.backbone.model.vocab_size, (size, 1, setup.words, 1))
    return _with_targets(torch.randint(256, shape, dtype=torch.uint8), ids.float())


def features_batch(setup: Setup, training: Training, size: int) -> Batch:
    """Stored tokens: those of all patches where the head selects, else their mean."""
    model = training.config.model
    patches = setup.patches if training.model.head.selection is not None else 1
    shape = (size, model.layers, setup.clips, patches, model.video_width)
    words = (size, model.layers, setup.words, model.text_width)
    return _with_targets(torch.randn(shape).half(), torch.randn(words))


def _with_targets(video: Tensor, text: Tensor) -> Batch:
    size, _, clips = video.shape[:3]
    return Batch(
        video=video,
        text=text,
        video_lengths=torch.full((size,), clips),
        text_lengths=torch.full((size,), text.shape[2]),
        spans=torch.tensor([[0.5, 0.2]]).expand(size, -1, -1),
        span_counts=torch.ones(size, dtype=torch.long),
        saliency=(torch.arange(clips) < clips // 5).float().expand(size, -1),
        positive_clip=torch.zeros(size, dtype=torch.long),
    )


if __name__ == "__main__":
    run(main)
