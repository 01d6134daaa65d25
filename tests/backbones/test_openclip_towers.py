"""Vision towers of other kinds through open_clip, small and with random weights: each layer that is
read is what a hook on open_clip's own block or stage sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from sdst.backbones import load_backbone
from sdst.errors import InputError

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4}


@register_model
def sdst_test_pe(**options: Any) -> nn.Module:
    """The tower of PE-Core, rotary positions and a class token."""
    small = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}
    return timm.create_model("vit_pe_core_tiny_patch16_384", **{**options, **small})


@register_model
def sdst_test_siglip(**options: Any) -> nn.Module:
    """The tower of SigLIP 2, which has no class token."""
    small = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 64}
    return timm.create_model("vit_base_patch16_siglip_224", **{**options, **small})


@register_model
def sdst_test_fastvit(**options: Any) -> nn.Module:
    """The tower of MobileCLIP and MobileCLIP2."""
    small = {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128)}
    return timm.create_model("fastvit_mci0", **{**options, **small})


@register_model
def sdst_test_convnext(**options: Any) -> nn.Module:
    """The tower of convnext_base and the like."""
    small = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
    return timm.create_model("convnext_tiny", **{**options, **small})


def of_timm(name: str, size: int, pool: str, proj: str | None) -> dict:
    vision = {"timm_model_name": name, "timm_model_pretrained": False, "image_size": size}
    return {**vision, "timm_pool": pool, "timm_proj": proj}


# The settings that open_clip's own configs have, but for sizes.
TOWERS = {
    "pe": of_timm("sdst_test_pe", 64, "map", None),
    "siglip": of_timm("sdst_test_siglip", 64, "map", "none"),
    "fastvit": of_timm("sdst_test_fastvit", 64, "avg", None),
    "convnext": of_timm("sdst_test_convnext", 64, "", "linear"),
    "resnet": {"image_size": 64, "width": 8, "layers": [1, 1, 1, 1]},
}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}


def model_folder(root: Path, name: str) -> Path:
    text = {**TEXT, **(SIGLIP_TEXT if name == "siglip" else {})}
    custom = "timm_model_name" in TOWERS[name]
    model: dict = {"embed_dim": 32, "vision_cfg": TOWERS[name], "text_cfg": text}
    torch.manual_seed(0)
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    weights = kind(**model).state_dict()
    root.mkdir()
    save_file({k: v.contiguous() for k, v in weights.items()}, root / "open_clip_model.safetensors")
    if custom:
        model["custom_text"] = True
    config = {"model_cfg": model, "preprocess_cfg": {}}
    (root / "open_clip_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def blocks_of(visual: nn.Module) -> Sequence[nn.Module]:
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
    trunk = visual.trunk
    return trunk.blocks if hasattr(trunk, "blocks") else trunk.stages


def seen(backbone: Any, frames: np.ndarray, layers: int) -> tuple[Any, list[Tensor]]:
    """The backbone's features, and the outputs of the tower's last blocks or stages."""
    outputs: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in list(blocks_of(backbone.model.visual))[-layers:]
    ]
    features = backbone.encode_frames(frames)
    for hook in hooks:
        hook.remove()
    return features, outputs


@pytest.mark.parametrize("name", ["pe", "siglip"])
def test_tokens_of_transformers_are_their_blocks_outputs(
    name: str, tmp_path: Path, frames: np.ndarray
) -> None:
    folder = model_folder(tmp_path / name, name)
    backbone = load_backbone(f"local-dir:{folder}", layers=2, device="cpu")
    features, outputs = seen(backbone, frames, 2)
    plain = functional.layer_norm(torch.stack(outputs), outputs[0].shape[-1:])
    torch.testing.assert_close(features.tokens, plain)
    assert features.tokens.shape[2] == 16 + (name == "pe")


@pytest.mark.parametrize("name", ["fastvit", "convnext", "resnet"])
@pytest.mark.parametrize("layers", [1, 3])
def test_tokens_of_convolutions_are_their_stages_outputs(
    name: str, layers: int, tmp_path: Path, frames: np.ndarray
) -> None:
    folder = model_folder(tmp_path / name, name)
    backbone = load_backbone(f"local-dir:{folder}", layers=layers, device="cpu")
    features, outputs = seen(backbone, frames, layers)
    widths = [x.shape[1] for x in outputs]
    assert features.tokens.shape == (layers, 3, 4, sum(widths))  # 2 x 2 cells of 32 pixels
    assert backbone.video_width == sum(widths)
    ends = np.cumsum(widths)
    for layer, (output, end) in enumerate(zip(outputs, ends, strict=True)):
        start = end - output.shape[1]
        found = features.tokens[layer].clone()
        cells = output.unflatten(2, (2, -1)).unflatten(4, (2, -1)).mean((3, 5))  # [T, C, 2, 2]
        plain = functional.layer_norm(cells.flatten(2).mT, output.shape[1:2])
        torch.testing.assert_close(found[..., start:end], plain, atol=1e-4, rtol=1e-4)
        found[..., start:end] = 0
        assert not found.any()


@pytest.mark.parametrize("name", TOWERS)
def test_embeddings_are_open_clips_own(name: str, tmp_path: Path, frames: np.ndarray) -> None:
    folder = model_folder(tmp_path / name, name)
    backbone = load_backbone(f"local-dir:{folder}", layers=2, device="cpu")
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    images = backbone.preprocess(torch.from_numpy(frames))
    ids, _ = backbone.tokenize(["a dog jumps into the lake"])
    with torch.inference_mode():
        image = model.eval().encode_image(images, normalize=True)
        text = model.encode_text(ids, normalize=True)
    torch.testing.assert_close(backbone.encode_frames(frames).embedding, image)
    [found] = backbone.encode_text(["a dog jumps into the lake"])
    torch.testing.assert_close(found.embedding, text[0])


def test_more_layers_than_stages_are_refused(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "fastvit", "fastvit")
    with pytest.raises(InputError, match="cannot give the hidden states of its last 6 blocks"):
        load_backbone(f"local-dir:{folder}", layers=6, device="cpu")
