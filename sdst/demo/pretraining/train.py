"""Pre-train the packaged backbone: a tiny CLIP on still frames with captions and boxes.

    python -m sdst.demo.pretraining.train

It was run once; its result is in `sdst/demo/backbone`. First the vision tower learns what
is where (`boxes`), then both towers learn captions as well, with CLIP's contrastive loss. All of it
sees single frames only, so what happens over time is left to the side-tuner.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from sdst.demo import BACKBONE
from sdst.demo.pretraining.boxes import BoxReaders, PhraseAlignment
from sdst.demo.pretraining.stills import Still, captions, make_stills, phrases
from sdst.demo.pretraining.vocabulary import learn_merges, write_vocabulary
from sdst.errors import run
from sdst.files.publish import publish, scratch_folder

VOCABULARY = "bpe_vocabulary.txt.gz"
LAYERS = 4  # last blocks that the side-tuner will read
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
    steps: tuple[int, int] = (5000, 1200),
    stills: int = 30_000,
    held_out: int = 1_000,
    batch_sizes: tuple[int, int] = (64, 96),
    seed: int = 0,
) -> float:
    """Train from nothing and write the open_clip folder.

    Args:
        folder: where it goes; replaced as a whole at the end.
        steps: optimiser steps of the vision tower alone, then of both towers.
        stills: pictures trained on, each also in the mirror.
        held_out: pictures kept for the figure that is returned.
        batch_sizes: stills a step in the two stages.
        seed: the result is a function of it.

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
        readers, alignment = BoxReaders(96, LAYERS, grid=4), PhraseAlignment(LAYERS, grid=4)
        with (
            tapped(model.visual.get_submodule("transformer"), LAYERS) as video,
            tapped(model.transformer, LAYERS) as text,
        ):

            def boxes_loss(chosen: list[Still]) -> Tensor:
                video.clear()
                model.encode_image(pixels(chosen))
                return readers.loss(video, chosen)

            def all_losses(chosen: list[Still]) -> Tensor:
                model.logit_scale.data.clamp_(0, math.log(100))
                sentences, named = phrases(chosen, rng)
                video.clear()
                contrast = ClipLoss()(*model(pixels(chosen), tokenizer(captions(chosen, rng))))
                text.clear()
                ids = tokenizer(sentences)
                model.encode_text(ids)
                grounded = alignment.loss(video, text, ids, chosen, named)
                return contrast + grounded + readers.loss(video, chosen)

            towers = (
                nn.ModuleList([model.visual, readers]),
                nn.ModuleList([model, readers, alignment]),
            )
            stages = zip(("boxes", "captions"), towers, (boxes_loss, all_losses), strict=True)
            for i, (name, trained, loss_of) in enumerate(stages):
                batches = _batches(pool, batch_sizes[i], steps[i], rng)
                _train(name, trained, loss_of, batches, steps[i], lr=(2e-3, 1.5e-3)[i])
        accuracy = retrieval_accuracy(model.eval(), tokenizer, test, rng)
        _write(folder, model, config, vocabulary)
    return accuracy


@contextmanager
def tapped(transformer: nn.Module, layers: int) -> Iterator[list[Tensor]]:
    """A list that every forward pass of a `transformer` appends its last blocks' tokens to."""
    tokens: list[Tensor] = []

    def append(block: nn.Module, inputs: object, output: Tensor) -> None:
        tokens.append(output)

    hooks = [
        block.register_forward_hook(append)
        for block in list(transformer.get_submodule("resblocks").children())[-layers:]
    ]
    yield tokens
    for hook in hooks:
        hook.remove()


def _batches(
    pool: Sequence[Still], size: int, steps: int, rng: np.random.Generator
) -> Iterator[list[Still]]:
    """`steps` random batches; half of the stills are seen in the mirror."""
    for _ in range(steps):
        chosen = [pool[i] for i in rng.integers(len(pool), size=size)]
        yield [still.mirrored() if rng.random() < 0.5 else still for still in chosen]


def _train(
    name: str,
    model: nn.Module,
    loss_of: Callable[[list[Still]], Tensor],
    batches: Iterator[list[Still]],
    steps: int,
    lr: float,
) -> None:
    """AdamW, 100 steps of warm-up, cosine to zero."""
    optimizer = torch.optim.AdamW(_groups(model, decay=0.05), lr=lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps)),
    )
    mean = None
    bar = tqdm(batches, total=steps, desc=f"learning {name}")
    for chosen in bar:
        loss = loss_of(chosen)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        bar.set_postfix(loss=f"{mean:.3f}", refresh=False)


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


def _groups(model: nn.Module, decay: float) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _write(folder: Path, model: open_clip.CLIP, config: dict, vocabulary: Path) -> None:
    """Put the folder in place as a whole: configuration, fp16 weights, vocabulary."""
    with scratch_folder(folder) as building:
        preprocess = {"mean": _MEAN, "std": _STD, "interpolation": "bicubic"}
        written = {"model_cfg": config, "preprocess_cfg": {**preprocess, "resize_mode": "shortest"}}
        (building / "open_clip_config.json").write_text(json.dumps(written, indent=2) + "\n")
        state = {name: value.half().contiguous() for name, value in model.state_dict().items()}
        save_file(state, building / "open_clip_model.safetensors")
        shutil.copy(vocabulary, building / VOCABULARY)
        if folder.exists():
            shutil.rmtree(folder)
        publish(building, folder)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=BACKBONE, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    accuracy = pretrain(args.output, seed=args.seed)
    print(f"right caption first of 100, held-out stills: {accuracy:.1%}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    run(main)
