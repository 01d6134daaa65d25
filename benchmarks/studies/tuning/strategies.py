"""Trainable parameters of each strategy, and a training step of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.studies.tuning.pictures import picture_backbone
from sdst.backbones.openclip import OpenClipBackbone
from sdst.config import Config
from sdst.data.batches import Batch
from sdst.model import SDST, ModelConfig, Outputs, grounding_loss
from sdst.model.layers import length_mask
from sdst.training.optim import make_optimizer, make_scheduler
from sdst.training.step import targets_of

LORA_RANK, LORA_ALPHA = 8, 16
_LORA_TARGETS = r".*resblocks\.\d+\.(attn|mlp\.c_fc|mlp\.c_proj)"  # of both towers
# CLIP's own heads, which no hidden state depends on.
_AFTER_THE_BLOCKS = ("visual.ln_post", "visual.proj", "ln_final", "text_projection", "logit_scale")
_PICTURES_AT_ONCE = 256  # their activations fit the caches better than those of a whole batch


@dataclass(frozen=True)
class Strategy:
    """A head, and what of the backbone below it trains.

    Args:
        title: its row in the table.
        head: changes of the configured model.
        backbone: `frozen` trains on stored features; `lora` and `all` need the frames.
        rate: the backbone's learning rate, in units of the head's.
    """

    title: str
    head: dict[str, object] = field(default_factory=dict)
    backbone: Literal["frozen", "lora", "all"] = "frozen"
    rate: float = 1.0


# Tokens that the sparse context reads get no gradient, so what trains below the head reads means.
PAPER = {"context": "none", "schedule": None}
LAST_LAYER = {**PAPER, "layers": 1}

STRATEGIES = {
    "sdst": Strategy("side-tuning, sparse context"),
    "paper": Strategy("side-tuning, the paper's block", PAPER),
    "head": Strategy("head on the last layer", LAST_LAYER),
    "lora": Strategy("LoRA and that head", LAST_LAYER, "lora"),
    "full": Strategy("full fine-tuning and that head", LAST_LAYER, "all", rate=0.1),
}


class OnFeatures(nn.Module):
    """A head on the last of the layers that a feature store holds; takes what `SDST` takes."""

    def __init__(self, head: SDST) -> None:
        super().__init__()
        self.head = head

    def forward(self, video: Tensor, text: Tensor, *lengths: Tensor) -> Outputs:
        layers = self.head.config.layers
        return self.head(video[:, -layers:], text[:, -layers:], *lengths)


class OnPictures(nn.Module):
    """A backbone and the head that reads its last blocks.

    Takes what `SDST` takes, with frames and token ids in place of features, see `Pictures`:
    video `[B, K, L, 1, 3 h w]` uint8 and text `[B, K, N, 1]`, both the same in all K layers.
    """

    def __init__(self, backbone: OpenClipBackbone, head: SDST) -> None:
        super().__init__()
        self.backbone = backbone
        self.towers: nn.Module = backbone.model
        self.head = head

    def forward(
        self, video: Tensor, text: Tensor, video_lengths: Tensor, text_lengths: Tensor
    ) -> Outputs:
        tokens = self._encode_clips(video[:, 0, :, 0], video_lengths)
        words = self._encode_words(text[:, 0, :, 0].long())
        return self.head(tokens, words, video_lengths, text_lengths)

    def _encode_clips(self, pictures: Tensor, lengths: Tensor) -> Tensor:
        """Tokens [B, K, L, P, Dv] of frames [B, L, 3 h w]; those of the padding are 0."""
        real = length_mask(lengths, pictures.shape[1])
        normalize = self.backbone.preprocess.normalize
        parts = pictures[real].unflatten(-1, (3, *self.backbone.image_size))
        encoded = [
            self.backbone.encode_images(normalize(part)).tokens
            for part in parts.split(_PICTURES_AT_ONCE)
        ]
        tokens = torch.cat(encoded, dim=1)  # [K, clips, P, Dv]
        padded = tokens.new_zeros(len(tokens), *real.shape, *tokens.shape[2:])
        padded[:, real] = tokens
        return padded.transpose(0, 1)

    def _encode_words(self, ids: Tensor) -> Tensor:
        """Tokens [B, K, N, Dt] of ids [B, N]."""
        words = ids.shape[1]
        context = self.backbone.model.context_length
        tokens, _ = self.backbone.encode_ids(functional.pad(ids, (0, context - words)))
        return tokens[:, :, :words].transpose(0, 1)


def head_config(strategy: Strategy, config: Config) -> ModelConfig:
    """Architecture of the head of `strategy`."""
    return replace(config.model, **strategy.head)


def make_model(strategy: Strategy, config: Config) -> OnFeatures | OnPictures:
    """The head and, where some of it trains, the backbone of `config`; what is frozen is marked."""
    head = SDST(head_config(strategy, config))
    if strategy.backbone == "frozen":
        return OnFeatures(head)
    model = OnPictures(picture_backbone(config, head.config.layers), head)
    if strategy.backbone == "lora":
        lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=_LORA_TARGETS)
        model.towers = get_peft_model(model.towers, lora)
    else:
        for name, parameter in model.towers.named_parameters():
            parameter.requires_grad_(not name.startswith(_AFTER_THE_BLOCKS))
    return model


def with_backbone(model: OnFeatures | OnPictures, config: Config) -> OnPictures:
    """`model` as it answers a query about frames."""
    if isinstance(model, OnPictures):
        return model
    layers = model.head.config.layers
    return OnPictures(picture_backbone(config, layers), model.head)


class Training:
    """A model under a strategy with its optimiser, the same recipe for all."""

    def __init__(self, strategy: Strategy, config: Config, steps: int) -> None:
        self.config = config
        self.model = make_model(strategy, config)
        self.optimizer = make_optimizer(self.model.head, config.train)
        if isinstance(self.model, OnPictures):
            slower = replace(config.train, lr=strategy.rate * config.train.lr)
            for group in make_optimizer(self.model.towers, slower).param_groups:
                self.optimizer.add_param_group(group)
        self.scheduler = make_scheduler(self.optimizer, config.train, steps)

    def step(self, batch: Batch) -> float:
        """Forward, loss, backward and update; the loss."""
        self.model.train()
        outputs = self.model(*batch.inputs())
        loss, _ = grounding_loss(outputs, targets_of(batch), self.config.loss)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()
        return loss.item()
