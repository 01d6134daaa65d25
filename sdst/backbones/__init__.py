"""Frozen vision-language backbones behind one protocol."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from sdst.errors import InputError

if TYPE_CHECKING:
    from sdst.backbones.internvideo2 import InternVideo2Backbone

logger = logging.getLogger(__name__)

DEMO_BACKBONE = Path(__file__).parents[1] / "demo" / "backbone"


@dataclass(frozen=True)
class FrameFeatures:
    """Features of T frames, or groups of frames, fp32, on the backbone's device.

    Args:
        tokens: hidden states of the last K blocks at about unit scale, shallow to deep,
            `[K, T, P, Dv]`; the prefix (CLS) token is first where the backbone has one, then the
            patches row by row.
        embedding: unit vectors in the space shared with text, `[T, E]`.
    """

    tokens: Tensor
    embedding: Tensor


@dataclass(frozen=True)
class TextFeatures:
    """Features of one sentence, fp32, on the backbone's device.

    Args:
        tokens: hidden states of the last K blocks at about unit scale, shallow to deep, without
            padding, `[K, N, Dt]`.
        embedding: a unit vector in the space shared with frames, `[E]`.
    """

    tokens: Tensor
    embedding: Tensor


class Backbone(Protocol):
    """A frozen pair of towers. Symbols as everywhere: K layers, P tokens per frame, E joint width.

    `frames_at_once` frames in a row are encoded together: 1 for an image model, more for one
    of video. `preprocessing` says in plain JSON what frames go through, and `fingerprint` whether
    stored features came from the same weights, preprocessing and layers, wherever the weights are.
    The methods may be called from several threads at once.
    """

    name: str
    device: torch.device
    image_size: tuple[int, int]
    layers: int
    frames_at_once: int
    tokens_per_frame: int
    video_width: int
    text_width: int
    embed_width: int

    @property
    def fingerprint(self) -> str: ...

    @property
    def preprocessing(self) -> dict: ...

    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        """Encode RGB frames of any size, uint8 `[T * frames_at_once, H, W, 3]`."""
        ...

    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences, each trimmed to its own tokens."""
        ...

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each sentence that its tower has no room for; mostly empty."""
        ...

    def release_text(self) -> None:
        """Free the memory of the text tower; `encode_text` cannot be called any more."""
        ...


def load_backbone(
    name: str, layers: int, device: str | torch.device | None = None, fetch: bool = True
) -> Backbone:
    """Load a frozen backbone that gives the hidden states of its last `layers` blocks.

    Args:
        name: `demo` (packaged, no download), an open_clip model as `MODEL:PRETRAINED` (a tag or a
            file), `local-dir:FOLDER`, `hf-hub:ORG/REPO`, or `internvideo2:PATH`. Options may follow
            as `,option=value`: `Options` of `sdst.backbones.openclip` and
            `sdst.backbones.internvideo2`.
        layers: K.
        device: default: CUDA where present, else the CPU.
        fetch: what is not on this machine may be downloaded; for a name that the user gave.

    Raises:
        InputError: an unknown name, weights that are missing, cannot or must not be fetched, a
            model that does not show its hidden states or has fewer blocks than `layers`.
    """
    logger.debug("loading the backbone %s", name)
    if name.partition(":")[0] == "internvideo2":
        return load_internvideo2(name, layers, device, fetch)
    from sdst.backbones.openclip import OpenClipBackbone

    resolved = re.sub(r"^demo(?=$|,)", f"local-dir:{DEMO_BACKBONE}", name)
    return OpenClipBackbone(resolved, layers, device, shown_as=name, fetch=fetch)


def load_internvideo2(
    name: str, layers: int, device: str | torch.device | None, fetch: bool = True
) -> InternVideo2Backbone:
    """As `load_backbone`, of a name that begins with `internvideo2:`."""
    try:
        from sdst.backbones.internvideo2 import InternVideo2Backbone
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise InputError(
            f"backbone {name}: its text tower needs transformers; pip install 'sdst[internvideo2]'"
        ) from None
    return InternVideo2Backbone(name, layers, device, fetch)
