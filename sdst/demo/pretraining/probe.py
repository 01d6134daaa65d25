"""A linear probe of the frozen features: presence, place and size of objects.

    python -m sdst.demo.pretraining.probe [--backbone FOLDER]

Fits ridge regressions on stills the backbone was not trained on.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch

from sdst.demo import BACKBONE
from sdst.demo.pretraining.stills import Still, make_stills
from sdst.demo.pretraining.train import LAYERS, pixels, tapped
from sdst.demo.scenes import COLOURS, SHAPES
from sdst.errors import run

_SEED = 9_000_000


def probe(folder: Path, stills: int = 4_000) -> dict[str, float]:
    """Held-out quality of linear readings, from all tokens of the last four blocks.

    Returns:
        `x`, `y`, `diameter`: explained variance (1 is perfect) where one object is in view;
        `colour`, `shape`: accuracy there; `presence`: mean area under the ROC curve of "a thing of
        this colour and shape is in view", over all stills, from the mean of the patches alone.
    """
    pool = make_stills(stills, 64, _SEED)
    features = hidden_states(folder, pool)
    single = np.array([len(still.seen) == 1 for still in pool])
    things = [still.seen[0] for still in pool if len(still.seen) == 1]
    tokens = features[single].reshape(single.sum(), -1)
    report = {}
    for name in ("x", "y", "diameter"):
        truth = np.array([getattr(thing, name) for thing in things])
        predicted, truth = _fit(tokens, truth)
        report[name] = 1 - float(((predicted - truth) ** 2).mean() / truth.var())
    for name, names in (("colour", COLOURS), ("shape", SHAPES)):
        truth = np.array([names.index(getattr(thing.look, name)) for thing in things])
        predicted, onehot = _fit(tokens, np.eye(len(names))[truth])
        report[name] = float((predicted.argmax(1) == onehot.argmax(1)).mean())
    pooled = features[:, :, 1:].mean(2).reshape(len(pool), -1)
    predicted, truth = _fit(pooled, np.stack([_presence(still) for still in pool]))
    report["presence"] = float(
        np.mean([_auc(p, t) for p, t in zip(predicted.T, truth.T, strict=True)])
    )
    return report


@torch.no_grad()
def hidden_states(folder: Path, stills: Sequence[Still]) -> np.ndarray:
    """Tokens of the last four vision blocks, [stills, 4, tokens, width]."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    assert isinstance(model, open_clip.CLIP)
    out = []
    with tapped(model.visual.get_submodule("transformer"), LAYERS) as tokens:
        for start in range(0, len(stills), 256):
            tokens.clear()
            model.encode_image(pixels(stills[start : start + 256]))
            out.append(torch.stack(tokens, 1).numpy())
    return np.concatenate(out)


def _fit(features: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression on four fifths; predictions and truth of the rest."""
    cut = len(features) * 4 // 5
    mean, std = features[:cut].mean(0), features[:cut].std(0) + 1e-6
    x = (features - mean) / std
    offset = truth[:cut].mean(0)
    # The dual form: as many unknowns as stills, however wide the features are.
    kernel = x[:cut] @ x[:cut].T
    ridge = 0.03 * np.trace(kernel) / cut * np.eye(cut, dtype=kernel.dtype)
    weights = np.linalg.solve(kernel + ridge, (truth[:cut] - offset).astype(kernel.dtype))
    return x[cut:] @ (x[:cut].T @ weights) + offset, truth[cut:]


def _presence(still: Still) -> np.ndarray:
    present = np.zeros((len(COLOURS), len(SHAPES)))
    for thing in still.seen:
        present[COLOURS.index(thing.look.colour), SHAPES.index(thing.look.shape)] = 1
    return present.ravel()


def _auc(scores: np.ndarray, truth: np.ndarray) -> float:
    ranks = scores.argsort().argsort()
    positives = truth > 0
    p, n = positives.sum(), (~positives).sum()
    return float((ranks[positives].sum() - p * (p - 1) / 2) / (p * n)) if p and n else 1.0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--backbone", type=Path, default=BACKBONE, help="an open_clip folder")
    parser.add_argument("--stills", type=int, default=4_000)
    args = parser.parse_args()
    for name, value in probe(args.backbone, args.stills).items():
        print(f"{name:>9}  {value:.3f}")


if __name__ == "__main__":
    run(main)
