"""Frames as a tower takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import torch
import torchvision.transforms.v2.functional as F
from open_clip.transform import PreprocessCfg, center_crop_or_pad
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode


class Preprocess(nn.Module):
    """open_clip's own evaluation transform, on a batch of uint8 frames instead of one PIL image.

    torchvision resizes uint8 tensors in fixed point, as PIL does: the two differ by a grey level
    here and there. Scaling to [0, 1] and normalising are one multiplication and one addition.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: PreprocessCfg):
        super().__init__()
        self.config = config
        size = config.size
        self.size = (size, size) if isinstance(size, int) else (size[0], size[-1])
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def described(self) -> dict:
        """Its configuration, as plain JSON."""
        return json.loads(json.dumps(asdict(self.config)))

    def forward(self, frames: Tensor) -> Tensor:
        """`[T, H, W, 3]` uint8 -> `[T, 3, h, w]` fp32."""
        return self.normalize(self.fit(frames))

    def normalize(self, frames: Tensor) -> Tensor:
        """`[T, 3, h, w]` uint8 -> fp32, what the towers take."""
        return torch.addcmul(self.shift, frames, self.scale)

    def fit(self, frames: Tensor) -> Tensor:
        """Resize and crop: `[T, H, W, 3]` -> `[T, 3, h, w]`, both uint8."""
        frames = frames.permute(0, 3, 1, 2)
        mode, interpolation = self.config.resize_mode, self.config.interpolation
        if mode == "squash":
            return _resize(frames, self.size, interpolation)
        ratios = [have / want for have, want in zip(frames.shape[-2:], self.size, strict=True)]
        if mode == "longest":
            size = [round(have / max(ratios)) for have in frames.shape[-2:]]
            frames = _resize(frames, size, interpolation)
            return center_crop_or_pad(frames, list(self.size), fill=self.config.fill_color)
        if self.size[0] == self.size[1]:
            frames = _resize(frames, self.size[:1], interpolation)
        else:
            # open_clip takes bicubic here whatever the configuration says.
            size = [round(have / min(ratios)) for have in frames.shape[-2:]]
            frames = _resize(frames, size, "bicubic")
        return F.center_crop(frames, list(self.size))


def _resize(frames: Tensor, size: Sequence[int], interpolation: str) -> Tensor:
    bilinear = interpolation == "bilinear"
    mode = InterpolationMode.BILINEAR if bilinear else InterpolationMode.BICUBIC
    return F.resize(frames, list(size), mode, antialias=True)
