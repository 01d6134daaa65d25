"""A checkpoint like InternVideo2 stage 2's, of small sizes and with random weights."""

from __future__ import annotations

import json
import string
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sdst.backbones.internvideo2.towers import InternVideo2, Sizes

LETTERS = string.ascii_lowercase + string.digits
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
TINY = Sizes(
    image_size=28,
    width=16,
    depth=4,
    heads=2,
    mlp_width=24,
    pool_heads=4,
    pooled_width=12,
    embed_width=8,
    text_width=20,
    text_depth=3,
    text_heads=2,
    text_mlp_width=28,
    vocabulary=len(WORDS),
    text_positions=24,
)


def random_weights(sizes: Sizes = TINY, seed: int = 0) -> dict[str, Tensor]:
    """Weights of both towers; factors of norms and scales are about 1."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    with torch.device("meta"):
        shapes = InternVideo2(sizes).state_dict()
    for key, like in shapes.items():
        noise = torch.randn(like.shape, generator=generator) * 0.3
        factor = like.dim() == 1 and not key.endswith("bias")
        weights[key] = 1 + noise if factor else noise
    return weights


def extras(sizes: Sizes = TINY) -> dict[str, Tensor]:
    """Further weights of the published file, at the shapes of the published code."""
    width, text = sizes.width, sizes.text_width
    shapes = {
        "vision_encoder.clip_pos_embed": (1, 1 + sizes.frames * sizes.patches, width),
        "vision_encoder.clip_img_pos_embed": (1, 1 + sizes.patches, width),
        "vision_encoder.final_clip_decoder.head.weight": (768, sizes.pooled_width),
        "vision_encoder.final_clip_decoder.head.bias": (768,),
        "vision_encoder.final_clip_decoder.norm.weight": (768,),
        "vision_encoder.final_clip_decoder.norm.bias": (768,),
        "text_encoder.cls.predictions.bias": (sizes.vocabulary,),
        "text_encoder.bert.embeddings.position_ids": (1, sizes.text_positions),
        f"text_encoder.bert.encoder.layer.{sizes.text_depth}.crossattention.self.query.weight": (
            text,
            text,
        ),
        "itm_head.weight": (2, text),
        "itm_head.bias": (2,),
        "temp": (),
    }
    for layer in range(6):
        decoder = f"vision_encoder.clip_decoder.{layer}"
        shapes[f"{decoder}.head.weight"] = (3200, width)
        for name in ("head.bias", "norm.weight", "norm.bias"):
            shapes[f"{decoder}.{name}"] = (3200,)
    return {key: torch.zeros(shape, device="meta") for key, shape in shapes.items()}


def write_model(
    folder: Path, weights: dict[str, Tensor] | None = None, root: str = "", sizes: Sizes = TINY
) -> Path:
    """A folder with weights, sizes and vocabulary; `root` is a key around or an ending."""
    folder.mkdir(parents=True)
    found = {key: torch.zeros_like(like, device="cpu") for key, like in extras(sizes).items()}
    found |= random_weights(sizes) if weights is None else weights
    if root == ".safetensors":
        save_file(found, folder / "weights.safetensors")
    else:
        torch.save({root: found, "epoch": 3} if root else found, folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(asdict(sizes)))
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder
