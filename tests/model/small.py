"""Small side-tuners, random batches for them, and a training step."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from sdst.model import SDST, LossConfig, ModelConfig, Targets, grounding_loss

BATCH, CLIPS, TOKENS, WORDS = 3, 11, 4, 6
# Steps are unrolled: one or two of them show what many would.
OURS = {"reads": "saliency", "refinement": "relative"}
VARIANTS = [
    {"attention": "rdsa", "context": "sparse", "layers": 2, "schedule": (2, 1), **OURS},
    {"attention": "rdsa", "context": "none", "layers": 1},
    {"attention": "deformable", "context": "sparse", "layers": 1},
    {"attention": "cross", "context": "none", "layers": 1},
]


def small_config(**changes: object) -> ModelConfig:
    base = ModelConfig(
        layers=3,
        video_width=24,
        text_width=20,
        width=32,
        queries=4,
        heads=4,
        context_tokens=12,
        context_strides=(1, 2, 4),
        context_segments=2,
        pooled_tokens=2,
    )
    return dataclasses.replace(base, **changes)


def random_inputs(config: ModelConfig, tokens: int = TOKENS) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    video = torch.randn(
        BATCH, config.layers, CLIPS, tokens, config.video_width, generator=generator
    )
    text = torch.randn(BATCH, config.layers, WORDS, config.text_width, generator=generator)
    return video, text, torch.tensor([11, 7, 1]), torch.tensor([6, 2, 1])


def random_targets() -> Targets:
    spans = torch.tensor([[[0.3, 0.2], [0.7, 0.3]], [[0.5, 0.4], [0.0, 0.0]], [[0.5, 1.0], [0, 0]]])
    saliency = torch.zeros(BATCH, CLIPS)
    saliency[0, 2:5], saliency[1, 3:6], saliency[2, 0] = 3.0, 2.0, 4.0
    lengths = torch.tensor([11, 7, 1])
    return Targets(spans, torch.tensor([2, 1, 1]), saliency, lengths, torch.tensor([3, 4, 0]))


def make_model(variant: dict) -> SDST:
    """Without dropout, so that two runs compare."""
    torch.manual_seed(0)
    torch.compiler.reset()
    still = {"dropout": 0.0, "drop_path": 0.0, "projection_dropout": 0.0}
    return SDST(small_config(**variant, **still))


def training_step(model: SDST, inputs: tuple[Tensor, ...], targets: Targets) -> Tensor:
    """The loss of a batch, from frozen features through matching to all terms."""
    return grounding_loss(model(*inputs), targets, LossConfig())[0]
