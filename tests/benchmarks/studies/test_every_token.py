"""The model that sparse selection is compared with, and how it is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.studies.every_token import EveryToken
from sdst import SDST
from sdst.config import load_config
from sdst.model import ModelConfig
from sdst.train import train

CLIPS, TOKENS, WORDS = 6, 5, 4


@pytest.fixture
def model() -> EveryToken:
    torch.manual_seed(0)
    config = ModelConfig(
        layers=2, video_width=16, text_width=16, width=32, context="sparse", context_tokens=2
    )
    return EveryToken(config).eval()


def ground(model: SDST, video: torch.Tensor) -> torch.Tensor:
    """Class logits [K, 1, M] of a video whose last clip is padding."""
    text = torch.randn(1, 2, WORDS, 16, generator=torch.Generator().manual_seed(1))
    return model(video, text, torch.tensor([CLIPS - 1]), torch.tensor([WORDS])).class_logits


@pytest.fixture
def video() -> torch.Tensor:
    """[1, K, L, P, Dv] that asks for its gradient."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(1, 2, CLIPS, TOKENS, 16, generator=generator).requires_grad_()


def test_every_token_of_every_clip_is_read(model: EveryToken, video: torch.Tensor) -> None:
    ground(model, video).sum().backward()
    assert (video.grad[:, :, :-1].abs().amax(-1) > 0).all()


def test_padding_is_not_read(model: EveryToken, video: torch.Tensor) -> None:
    ground(model, video).sum().backward()
    assert (video.grad[:, :, -1] == 0).all()


def test_training_builds_the_model_it_is_given(tiny_options: list[str], tmp_path: Path) -> None:
    options = [*tiny_options, "--model.context", "sparse", "--train.epochs", "1"]
    config = load_config("demo", options)
    output = tmp_path / "run"
    train(config, output, model_class=EveryToken)
    weights = load_file(output / "model" / "model.safetensors")
    assert "sparse_block.context_attention.key_value.weight" in weights
