"""Backbones that give a new video the features of the field's published files.

The networks, frames and constants are those of the scripts that made the files:
R2-Tuning's `tools/extract_{frames,feat}.py`, and for Moment-DETR's layout HERO's extractor, as
Moment-DETR's `run_on_video` and Lighthouse repeat it. Decoders and resizing differ from ffmpeg's
by a grey level here and there.
"""

from __future__ import annotations

import torch

from sdst.backbones import Backbone
from sdst.config import DataConfig
from sdst.errors import InputError

# What to name for checkpoints of each layout; nothing is fetched unasked.
NAMES = {
    "r2_tuning": "ViT-B-32:openai",
    "moment_detr": "ViT-B-32:openai+slowfast:PATH/SLOWFAST_8x8_R50.pkl",
}


def load_published(
    name: str, data: DataConfig, layers: int, device: str | torch.device | None = None
) -> Backbone:
    """The backbone of a layout of published features.

    Args:
        name: one that the user gave; see `NAMES`.
        data: of the checkpoint; names the layout, and the folders whose features were joined.
        layers: K of the model; features of the last layer alone are repeated for each.
        device: default: CUDA where present, else the CPU.

    Raises:
        InputError: the layout is another, or the backbone cannot be loaded.
    """
    if data.features == "r2_tuning":
        from sdst.backbones.published.r2_tuning import HiddenStates

        return HiddenStates(name, layers, device)
    if data.features == "moment_detr":
        from sdst.backbones.published.moment_detr import ClipSlowFast

        return ClipSlowFast(name, data.video_features, data.clip_length, layers, device)
    raise InputError(
        f"features of {data.features} cannot be made for new videos; expected {', '.join(NAMES)}"
    )
