"""Moment-DETR's features: SlowFast and CLIP side by side, one vector a clip."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.backbones.published.r2_tuning import HiddenStates
from sdst.backbones.published.slowfast import SlowFastFeatures
from sdst.errors import InputError

RATE = 30  # pictures per second that SlowFast is given
SLOWFAST = "+slowfast:"
KINDS = ("slowfast", "clip")


class ClipSlowFast:
    """CLIP and SlowFast, frozen; see `sdst.backbones.Backbone`.

    The vectors of a clip are divided by their lengths, kind by kind, as the files are when they are
    read; so are those of words, which come out of CLIP's last LayerNorm. Of a clip's pictures at
    `RATE`, CLIP sees the one before the middle, and SlowFast those of `SlowFastFeatures.pictures`.

    Args:
        name: of CLIP, as for `load_backbone`, and `+slowfast:FILE`, SlowFast 8x8 R50 of
            PySlowFast's model zoo, which is left out where no folder holds its features.
        folders: `data.video_features`, in whose order the kinds are joined; names say the kinds.
        clip_length: seconds.
        layers: K, as often as the one layer is repeated.
        device: default: CUDA where present, else the CPU.

    Raises:
        InputError: a folder is of neither kind, or weights are missing or others.
    """

    def __init__(
        self,
        name: str,
        folders: Sequence[str],
        clip_length: float,
        layers: int = 1,
        device: str | torch.device | None = None,
    ) -> None:
        self.name, self.layers = name, layers
        self._kinds = [_kind(folder) for folder in folders]
        clip, found, weights = name.partition(SLOWFAST)
        if ("slowfast" in self._kinds) != bool(found):
            raise InputError(
                f"backbone {name}: the checkpoint was trained on {' and '.join(self._kinds)}; "
                f"expected CLIP's name{f' and {SLOWFAST}FILE' * ('slowfast' in self._kinds)}"
            )
        self._clip = HiddenStates(clip, 1, device)
        self.device, self.image_size = self._clip.device, self._clip.image_size
        self._slowfast = SlowFastFeatures(Path(weights), self.device) if found else None
        self.frames_at_once = round(RATE * clip_length) if found else 1
        widths = {"slowfast": SlowFastFeatures.width, "clip": self._clip.embed_width}
        self.tokens_per_frame = 1
        self.video_width = sum(widths[kind] for kind in self._kinds)
        self.text_width, self.embed_width = self._clip.text_width, self._clip.embed_width

    @property
    def preprocessing(self) -> dict:
        """That of CLIP; SlowFast's is its extractor's."""
        return self._clip.preprocessing

    @property
    def fingerprint(self) -> str:
        """`clip-slowfast-<hash of weights, kinds and rate>-k<layers>`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        parts = [self._clip.fingerprint, *self._kinds, str(self.frames_at_once)]
        parts += [self._slowfast.digest] if self._slowfast else []
        digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        return f"clip-slowfast-{digest[:16]}-k{self.layers}"

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        """Encode RGB frames of any size, uint8 `[T * frames_at_once, H, W, 3]`, T clips."""
        clips = frames.reshape(-1, self.frames_at_once, *frames.shape[1:])
        middle = max(self.frames_at_once // 2 - 1, 0)
        embedding = self._clip.encode_frames(clips[:, middle]).embedding
        found = {"clip": embedding}
        if self._slowfast is not None:
            found["slowfast"] = self._slowfast.encode(clips)
        units = [functional.normalize(found[kind], dim=-1) for kind in self._kinds]
        tokens = torch.cat(units, dim=1)
        return FrameFeatures(self._repeated(tokens.unsqueeze(1)), embedding)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences, each trimmed to its own tokens (with the start and end marks)."""
        norm = self._clip.model.ln_final
        return [
            TextFeatures(
                self._repeated(functional.normalize(norm(text.tokens[0]).float(), dim=-1)),
                text.embedding,
            )
            for text in self._clip.encode_text(texts)
        ]

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each sentence that CLIP has no room for; mostly empty."""
        return self._clip.unread(texts)

    def release_text(self) -> None:
        """Free the memory of the text tower; `encode_text` cannot be called any more."""
        _ = self.fingerprint  # is of both towers
        self._clip.release_text()

    def _repeated(self, tokens: Tensor) -> Tensor:
        return tokens.expand(self.layers, *tokens.shape)


def _kind(folder: str) -> str:
    """The content of a folder of features, by its name."""
    for kind in KINDS:
        if kind in folder.lower():
            return kind
    raise InputError(
        f"data.video_features {folder}: neither of SlowFast nor of CLIP by its name, and nothing "
        "else can be made for new videos"
    )
