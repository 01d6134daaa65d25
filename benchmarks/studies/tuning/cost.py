"""`python -m benchmarks.studies.tuning.cost SETUP STRATEGY`: the cost of training by one strategy.

A process of its own per strategy, so that none finds memory or warm pages that another has left.
With `queries` in place of a strategy: the cost of answering, by all of them in turns.
Features and frames are random numbers; what they cost does not depend on what they show.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.studies.tuning.strategies import (
    STRATEGIES,
    OnFeatures,
    OnPictures,
    Strategy,
    Training,
    head_config,
    make_model,
    with_backbone,
)
from sdst.config import Config, load_config
from sdst.data.batches import Batch
from sdst.errors import run
from sdst.files.publish import replace_text
from sdst.grounding.decode import decode
from sdst.memory import peak_memory
from sdst.model import SDST, parameter_count


@dataclass(frozen=True)
class Setup:
    """A backbone and the sizes of its data.

    Args:
        title: what the tables call it.
        recipe: packaged config of the model and its training.
        backbone: its `data.backbone`.
        side: pixels of a frame.
        patches: tokens of a frame, CLS included.
        clips: per video.
        words: tokens of a query.
        batch: queries per training step.
        queries: answered one by one, of which the median time is taken.
    """

    title: str
    recipe: str
    backbone: str
    side: int
    patches: int
    clips: int
    words: int
    batch: int
    queries: int

    @cached_property
    def config(self) -> Config:
        return load_config(self.recipe, ["--data.backbone", self.backbone])


QUERIES = "queries"
IDS = 700  # tokens that either vocabulary has

SETUPS = {
    "demo": Setup("demo backbone", "demo", "demo", 64, 17, 40, 9, 16, 20),
    "vit": Setup("ViT-B/32", "qvhighlights_clip_b32_patches", "ViT-B-32", 224, 50, 75, 20, 1, 1),
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("setup", choices=SETUPS)
    parser.add_argument("strategy", choices=(*STRATEGIES, QUERIES))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, metavar="OUT.json")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*random weights")
    setup = SETUPS[options.setup]
    if options.strategy == QUERIES:
        result = answering(setup)
    else:
        result = training(setup, STRATEGIES[options.strategy], options.steps)
    replace_text(options.output, json.dumps(result, indent=2) + "\n")


def training(setup: Setup, strategy: Strategy, steps: int) -> dict[str, float]:
    """Trainable parameters, seconds and bytes.

    Returns:
        `trainable` parameters; `step`, CPU seconds of a training step, its batch at hand; `peak`,
        bytes that weights, gradients, optimiser and steps need at their peak.
    """
    short = replace(setup, clips=4)  # so that the code is in memory before it is measured
    train(short, strategy, random_batch(short, strategy), steps=1)
    batch = random_batch(setup, strategy)
    found = {}
    peak = peak_memory(lambda: found.update(train(setup, strategy, batch, steps)))
    return {**found, "peak": peak}


def train(setup: Setup, strategy: Strategy, batch: Batch, steps: int) -> dict[str, float]:
    """Train from nothing: one step, which allocates what stays, and `steps` that are timed."""
    begun = Training(strategy, setup.config, steps + 1)
    return {
        **median_seconds({"step": lambda: begun.step(batch)}, steps),
        "trainable": sum(parameter_count(begun.model).values()),
    }


def answering(setup: Setup) -> dict[str, dict[str, float]]:
    """CPU seconds of one query on one video, by strategy.

    LoRA, once merged into the weights, and full fine-tuning compute what the strategy with a frozen
    backbone and the same head computes, so they share its times.

    Returns:
        `query`, from frames and token ids to moments; `head`, the same from features.
    """
    config, one = setup.config, replace(setup, batch=1)
    frozen = {name: s for name, s in STRATEGIES.items() if s.backbone == "frozen"}
    from_pictures, from_features = {}, {}
    for name, strategy in frozen.items():
        model = with_backbone(make_model(strategy, config), config).eval()
        if isinstance(model.head, SDST):
            model.head.for_inference()
        features = features_batch(one, strategy)
        from_pictures[name] = partial(_answer, setup, model, pictures_batch(one))
        from_features[name] = partial(_answer, setup, OnFeatures(model.head).eval(), features)
    with torch.inference_mode():
        query = median_seconds(from_pictures, setup.queries)
        head = median_seconds(from_features, 20 * setup.queries)
    shared = {
        name: next(other for other in frozen if frozen[other].head == strategy.head)
        for name, strategy in STRATEGIES.items()
    }
    return {name: {"query": query[by], "head": head[by]} for name, by in shared.items()}


def _answer(setup: Setup, model: OnFeatures | OnPictures, batch: Batch) -> object:
    clip_length = setup.config.data.clip_length
    outputs = model(*batch.inputs())
    return decode(outputs, batch.video_lengths, [setup.clips * clip_length], clip_length)


def median_seconds(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU time of every call, all threads together; other work on the machine is not in it.

    The calls take turns; the first turn is not measured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn > 0:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def random_batch(setup: Setup, strategy: Strategy) -> Batch:
    """Inputs of a training step: frames where the backbone trains, else features."""
    if strategy.backbone == "frozen":
        return features_batch(setup, strategy)
    return pictures_batch(setup)


def pictures_batch(setup: Setup) -> Batch:
    """Frames and token ids, see `Pictures`."""
    shape = (setup.batch, 1, setup.clips, 1, 3 * setup.side**2)
    ids = torch.randint(1, IDS, (setup.batch, 1, setup.words, 1))
    return _with_targets(torch.randint(256, shape, dtype=torch.uint8), ids.float())


def features_batch(setup: Setup, strategy: Strategy) -> Batch:
    """Stored tokens: those of all patches where the head selects, else their mean."""
    model = head_config(strategy, setup.config)
    patches = setup.patches if model.context == "sparse" else 1
    shape = (setup.batch, model.layers, setup.clips, patches, model.video_width)
    words = (setup.batch, model.layers, setup.words, model.text_width)
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
