"""`python -m benchmarks.studies.buckets DIR`: how many graphs training needs on real annotations.

A training step takes a CUDA graph for each bucket of batches with the same clips L, words N and
moments G, padding included (`sdst.training.graphs`). DIR holds the field's annotation files, as
`qvhighlights/highlight_train_release.jsonl`. Lengths come from the annotations: clips from a
video's duration; words, that a sentence is split at, and three more for its tokens.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdst.data.annotations import read_annotations
from sdst.data.batches import BUCKETS, TIGHT, Multiples
from sdst.data.video import num_clips
from sdst.errors import run
from sdst.training.graphs import EAGER_STEPS

MORE_TOKENS = 3  # begin, end, and a word of two


@dataclass(frozen=True)
class Dataset:
    """Annotations that a recipe trains on.

    Args:
        files: in the folder of all datasets.
        clip_length: seconds, of the recipe.
        batch_size: of the recipe.
    """

    files: tuple[str, ...]
    clip_length: float
    batch_size: int


DATASETS = {
    "QVHighlights": Dataset(("qvhighlights/highlight_train_release.jsonl",), 2.0, 128),
    "Charades-STA": Dataset(("charades/charades_train_release.jsonl",), 1.0, 32),
    "TACoS": Dataset(("tacos/tacos_train_release.jsonl",), 2.0, 32),
    "ActivityNet (val_1)": Dataset(("activitynet/activitynet_val_release.jsonl",), 2.0, 128),
}


def count(
    folder: Path, name: str, multiples: Multiples, epochs: int = 10
) -> Counter[tuple[int, ...]]:
    """Steps of every bucket (L, N, G), in epochs of shuffled batches."""
    dataset = DATASETS[name]
    sizes = np.array(
        [
            (
                num_clips(a.duration, dataset.clip_length),
                len(a.query.split()) + MORE_TOKENS,
                max(len(a.windows or ()), 1),
            )
            for file in dataset.files
            for a in read_annotations(folder / file, clip_length=dataset.clip_length)
        ]
    )
    rng, found = np.random.default_rng(0), Counter()
    steps = len(sizes) // dataset.batch_size
    for _ in range(epochs):
        order = rng.permutation(len(sizes))[: steps * dataset.batch_size]
        longest = sizes[order].reshape(steps, dataset.batch_size, 3).max(1)
        padded = -(-longest // np.array(multiples)) * np.array(multiples)
        found.update(tuple(int(x) for x in bucket) for bucket in padded)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m benchmarks.studies.buckets --help`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.buckets",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the annotations")
    parser.add_argument("--epochs", type=int, default=10, help="default: %(default)s")
    options = parser.parse_args(arguments)
    print("| dataset | batch | steps | shapes | graphs | steps replayed | clips padded |")
    print("|---" * 7 + "|")
    for name, dataset in DATASETS.items():
        shapes = count(options.folder, name, TIGHT, options.epochs)
        graphs = count(options.folder, name, BUCKETS, options.epochs)
        steps = sum(graphs.values())
        replayed = sum(max(n - EAGER_STEPS - 1, 0) for n in graphs.values())
        clips = [sum(n * clips for (clips, *_), n in x.items()) for x in (shapes, graphs)]
        used = sum(n > EAGER_STEPS for n in graphs.values())
        print(
            f"| {name} | {dataset.batch_size} | {steps:,} | {len(shapes)} | {used} "
            f"| {replayed / steps:.1%} | +{clips[1] / clips[0] - 1:.1%} |"
        )
    return 0


if __name__ == "__main__":
    run(main)
