"""Any open_clip model as a frozen backbone."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from threading import Lock
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.backbones.openclip.building import create_model, create_tokenizer, located
from sdst.backbones.openclip.options import DTYPES, Options
from sdst.backbones.openclip.preprocessing import Preprocess
from sdst.backbones.openclip.states import as_tokens, in_slots, normalized
from sdst.backbones.text_length import unread
from sdst.errors import InputError

FRAMES_AT_ONCE = {"cpu": 32, "cuda": 256}
TEXTS_AT_ONCE = 256


class OpenClipBackbone:
    """The towers of an open_clip model, frozen; see `sdst.backbones.Backbone`.

    Args:
        name: as for `load_backbone`, `demo` resolved; `Options` may follow.
        layers: K, the last blocks of either tower whose hidden states are given.
        device: default: CUDA where present, else the CPU.
        shown_as: the name to go by, where it is not `name`.
        fetch: as for `load_backbone`.
    """

    def __init__(
        self,
        name: str,
        layers: int,
        device: str | torch.device | None = None,
        shown_as: str | None = None,
        fetch: bool = True,
    ):
        self.name = shown_as or name
        self.layers = layers
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        options = Options.parse(name)
        source = located(options.model, fetch)
        model = create_model(source, options, fetch)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._format = torch.channels_last if options.channels_last else torch.contiguous_format
        self.model.visual.to(memory_format=self._format)
        self._config = open_clip.factory.get_model_config(source.model)
        self._tokenizer = create_tokenizer(source, options.model, fetch)
        self._tokenizing = Lock()  # tokenizers in Rust serve one thread at a time
        self._dtype = DTYPES[
            options.dtype or ("float16" if self.device.type == "cuda" else "float32")
        ]
        self.preprocess = Preprocess(
            PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model))
        )
        self.preprocess.to(self.device)
        if self._dtype is not None and self.device.type == "cpu":
            _ = self.fingerprint  # is of the weights as they were published
            _round_weights(self.model.visual, self._dtype)
        self.image_size = self.preprocess.size
        self.frames_at_once = 1
        self._measure()
        if options.compile:
            tower = self.model.visual
            tower.forward_intermediates = torch.compile(tower.forward_intermediates, dynamic=True)

    @property
    def fingerprint(self) -> str:
        """`openclip-<hash of weights, architecture and preprocessing>-k<layers>`."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        activations = sorted({type(module).__name__ for module in self.model.modules()})
        description = [self._config, activations, asdict(self.preprocess.config)]
        digest.update(json.dumps(description, sort_keys=True).encode())
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode())
            digest.update(
                value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            )
        return f"openclip-{digest.hexdigest()[:16]}-k{self.layers}"

    @property
    def preprocessing(self) -> dict:
        """open_clip's `PreprocessCfg`, as plain JSON."""
        return self.preprocess.described()

    @torch.inference_mode()
    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        """Encode RGB frames of any size, uint8 `[T, H, W, 3]`, a batch at a time."""
        parts = [
            self.encode_images(self.preprocess(torch.from_numpy(part).to(self.device)))
            for part in np.split(frames, range(self._batch, len(frames), self._batch))
        ]
        return FrameFeatures(
            tokens=torch.cat([part.tokens for part in parts], dim=1),
            embedding=torch.cat([part.embedding for part in parts]),
        )

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Encode sentences, each trimmed to its own tokens (with the start and end marks)."""
        features = []
        for first in range(0, len(texts), TEXTS_AT_ONCE):
            ids, lengths = self.tokenize(texts[first : first + TEXTS_AT_ONCE])
            if self._reads_in_order:
                ids = ids[:, : max(lengths)]
            tokens, embedding = self.encode_ids(ids)
            features += [
                TextFeatures(tokens[:, i, :length], embedding[i])
                for i, length in enumerate(lengths)
            ]
        return features

    def unread(self, texts: Sequence[str]) -> list[str]:
        """The end of each sentence that the text tower has no room for; mostly empty."""
        return [unread(text, self._token_count, self._context_length) for text in texts]

    def release_text(self) -> None:
        """Free the memory of the text tower; `encode_text` cannot be called any more."""
        _ = self.fingerprint  # is of both towers
        for name, _ in [*self.model.named_children()]:
            if name != "visual":
                delattr(self.model, name)

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """Token ids `[B, context]` of sentences, and how many of each are its own."""
        with self._tokenizing:
            ids = self._tokenizer(list(texts)).to(self.device)
        return ids, self._lengths(ids)

    @property
    def _context_length(self) -> int:
        return self._tokenizer.context_length

    def _token_count(self, text: str) -> int:
        """Tokens of a sentence, whatever the tower has room for; about one for a byte at most."""
        room = 2 * len(text.encode(errors="replace")) + self._context_length
        with self._tokenizing:
            return self._lengths(self._tokenizer([text], context_length=room))[0]

    def encode_images(self, images: Tensor) -> FrameFeatures:
        """Encode preprocessed frames `[T, 3, h, w]`, with gradients if the weights want any."""
        images = images.contiguous(memory_format=self._format)
        if self._gives_maps:
            return self._encode_by_stages(images)
        with self._autocast():
            output = self.model.forward_intermediates(
                image=images,
                image_indices=self.layers,
                image_output_fmt="NLC",
                image_output_extra_tokens=True,
            )
        tokens = torch.stack(output["image_intermediates"])
        if output.get("image_intermediates_prefix") is not None:
            tokens = torch.cat([torch.stack(output["image_intermediates_prefix"]), tokens], dim=2)
        return FrameFeatures(self.scaled(tokens), output["image_features"].float())

    def _encode_by_stages(self, images: Tensor) -> FrameFeatures:
        """`encode_images` of a convolutional tower, whose layers are its stages."""
        with self._autocast():
            output = self.model.forward_intermediates(
                image=images, image_indices=self.layers, image_output_fmt="NCHW"
            )
        maps = output["image_intermediates"]
        height, width = maps[-1].shape[-2:]
        tokens = in_slots([self.scaled(as_tokens(x, (height, width))) for x in maps])
        return FrameFeatures(tokens, output["image_features"].float())

    @cached_property
    def _gives_maps(self) -> bool:
        """Whether the vision tower's layers are maps [T, C, h, w], of a shape for every stage."""
        tower = self.model.visual
        if not isinstance(tower, TimmModel):
            return isinstance(tower, ModifiedResNet)
        trunk: Any = tower.trunk
        takes = inspect.signature(trunk.forward_intermediates).parameters
        return "return_prefix_tokens" not in takes  # as those of transformers do

    def encode_ids(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids `[B, N]`, with gradients if the weights want any.

        Args:
            ids: N is the model's context, or less where it reads texts in order.

        Returns:
            Tokens `[K, B, N, Dt]`, those of padding included, and embeddings `[B, E]`.
        """
        model = self.model
        if self._reads_in_order and ids.shape[1] < len(model.positional_embedding):
            model = _ShortContext(model, ids.shape[1])
        with self._autocast():
            output = type(self.model).forward_intermediates(
                model, text=ids, text_indices=self.layers
            )
        return self.scaled(torch.stack(output["text_intermediates"])), output[
            "text_features"
        ].float()

    def scaled(self, states: Tensor) -> Tensor:
        """Hidden states as they are given, fp32."""
        return normalized(states)

    def _lengths(self, ids: Tensor) -> list[int]:
        """Tokens before the padding: id 0 [P], unless the tokenizer names another."""
        padding = getattr(getattr(self._tokenizer, "tokenizer", None), "pad_token_id", None) or 0
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        # The last token that is no padding: id 0 is also a legal token inside a sentence ("!").
        return ((ids != padding) * places).amax(dim=1).clamp(min=1).tolist()

    @property
    def _reads_in_order(self) -> bool:
        """Whether no token of a text depends on one behind it, so that padding need not be read."""
        model = self.model
        causal = isinstance(model, open_clip.CLIP) and model.attn_mask is not None
        return causal and model.text_pool_type in ("first", "argmax", "eos")

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None)

    @property
    def _batch(self) -> int:
        return FRAMES_AT_ONCE.get(self.device.type, 32)

    def _measure(self) -> None:
        """Learn the shapes from one blank frame, which also shows whether the model can serve."""
        try:
            frame = self.encode_frames(np.zeros((1, *self.image_size, 3), np.uint8))
            text = self.encode_text([""])[0]
        except (AttributeError, TypeError, AssertionError, NotImplementedError) as error:
            raise InputError(
                f"backbone {self.name}: cannot give the hidden states of its last {self.layers} "
                f"blocks ({error or type(error).__name__}); take fewer layers or another model"
            ) from None
        _, _, self.tokens_per_frame, self.video_width = frame.tokens.shape
        self.text_width = text.tokens.shape[-1]
        self.embed_width = text.embedding.shape[-1]


def _round_weights(tower: nn.Module, dtype: torch.dtype) -> None:
    """Keep rounded what autocast would round anew in every batch, which takes a CPU several times
    as long as the products."""
    for module in tower.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.MultiheadAttention)):
            for weight in module.parameters(recurse=False):
                weight.data = weight.data.to(dtype)


class _ShortContext:
    """A CLIP model as its own functions find it where texts have `length` tokens at most."""

    def __init__(self, model: Any, length: int):
        self._model = model
        self.positional_embedding = model.positional_embedding[:length]
        self.attn_mask = model.attn_mask[:length, :length]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
