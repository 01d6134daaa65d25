"""Pre-train the packaged backbone: a tiny CLIP on still frames with captions.

    python -m sdst.data.demo.pretrain

It was run once; its result lies in `sdst/data/demo/backbone`. It sees single frames only, so what
happens over time is left to the side-tuner.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sdst.data.demo import BACKBONE
from sdst.data.demo.stills import Still, captions, make_stills
from sdst.data.demo.vocabulary import learn_merges, write_vocabulary
from sdst.errors import run

VOCABULARY = "bpe_vocabulary.txt.gz"
CONTEXT = 32  # tokens of a sentence
_STILLS_SEED = 7_000_000  # of scenes apart from those of any demo split
_MEAN, _STD = (0.35, 0.35, 0.35), (0.22, 0.22, 0.22)


def model_config(vocabulary_size: int) -> dict:
    """`model_cfg` of open_clip_config.json.

    The image embedding is the mean of the patch tokens, so that every patch of the last block is
    trained to say what it shows.
    """
    return {
        "embed_dim": 96,
        "vision_cfg": {
            "image_size": 64,
            "patch_size": 16,
            "width": 96,
            "head_width": 32,
            "layers": 6,
            "pool_type": "avg",
        },
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary_size,
            "width": 96,
            "heads": 3,
            "layers": 4,
        },
    }


def pretrain(
    folder: Path,
    steps: int = 2000,
    stills: int = 36_000,
    held_out: int = 1_000,
    batch_size: int = 128,
    lr: float = 2e-3,
    seed: int = 0,
) -> float:
    """Train from nothing and write the open_clip folder.

    Returns:
        Retrieval accuracy on held-out stills: how often the right caption of 100 is ranked first.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    total = stills + held_out
    pool = make_stills(total, 64, _STILLS_SEED + seed)
    pool, test = pool[:stills], pool[stills:]
    with tempfile.TemporaryDirectory() as scratch:
        vocabulary = Path(scratch) / VOCABULARY
        write_vocabulary(learn_merges(captions(pool[:20_000] * 2, rng)), vocabulary)
        tokenizer = open_clip.SimpleTokenizer(str(vocabulary), context_length=CONTEXT)
        config = model_config(tokenizer.vocab_size)
        model = open_clip.CLIP(**config)
        optimizer = torch.optim.AdamW(_groups(model, decay=0.05), lr=lr, betas=(0.9, 0.98))
        _train(model, optimizer, tokenizer, pool, steps, batch_size, rng)
        accuracy = retrieval_accuracy(model.eval(), tokenizer, test, rng)
        _write(folder, model, config, vocabulary)
    return accuracy


def _train(
    model: open_clip.CLIP,
    optimizer: torch.optim.Optimizer,
    tokenizer: open_clip.SimpleTokenizer,
    pool: Sequence[Still],
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
) -> None:
    peak = [group["lr"] for group in optimizer.param_groups]
    contrast = ClipLoss()
    mean_loss = math.log(batch_size)
    model.train()
    bar = tqdm(range(steps), desc="pre-training")
    for step in bar:
        warm = min(1.0, (step + 1) / 100)
        for group, lr in zip(optimizer.param_groups, peak, strict=True):
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = [pool[i] for i in rng.integers(len(pool), size=batch_size)]
        chosen = [still.mirrored() if rng.random() < 0.5 else still for still in chosen]
        texts = tokenizer(captions(chosen, rng))
        image, text, scale = model(pixels(chosen), texts)
        loss = contrast(image, text, scale)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        mean_loss += 0.05 * (float(loss) - mean_loss)
        bar.set_postfix(loss=f"{mean_loss:.3f}", scale=f"{float(scale):.0f}")


@torch.no_grad()
def retrieval_accuracy(
    model: open_clip.CLIP,
    tokenizer: open_clip.SimpleTokenizer,
    stills: Sequence[Still],
    rng: np.random.Generator,
) -> float:
    """How often a still's own caption is nearest among those of 100 stills."""
    hits, groups = 0, max(len(stills) // 100, 1)
    for group in np.array_split(np.arange(len(stills)), groups):
        chosen = [stills[i] for i in group]
        image, text, _ = model(pixels(chosen), tokenizer(captions(chosen, rng)))
        hits += int(((image @ text.T).argmax(1) == torch.arange(len(chosen))).sum())
    return hits / len(stills)


def pixels(stills: Sequence[Still]) -> Tensor:
    """Normalised pictures [B, 3, size, size] of `stills`."""
    stack = torch.from_numpy(np.stack([still.picture for still in stills]))
    scaled = stack.permute(0, 3, 1, 2).float() / 255
    return (scaled - torch.tensor(_MEAN).view(3, 1, 1)) / torch.tensor(_STD).view(3, 1, 1)


def _groups(model: open_clip.CLIP, decay: float) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _write(folder: Path, model: open_clip.CLIP, config: dict, vocabulary: Path) -> None:
    """Put the folder in place as a whole: configuration, fp16 weights, vocabulary."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        preprocess = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic"}
        written = {"model_cfg": config, "preprocess_cfg": {**preprocess, "resize_mode": "shortest"}}
        (building / "open_clip_config.json").write_text(json.dumps(written, indent=2) + "\n")
        state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(state, building / "open_clip_model.safetensors")
        shutil.copy(vocabulary, building / VOCABULARY)
        building.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=BACKBONE, help="folder to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--stills", type=int, default=36_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    accuracy = pretrain(args.output, steps=args.steps, stills=args.stills, seed=args.seed)
    print(f"right caption first of 100, held-out stills: {accuracy:.1%}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    run(main)
