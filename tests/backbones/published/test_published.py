"""Checkpoints of published features answer about new videos: with the numbers of the files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from sdst.backbones.published import load_published
from sdst.backbones.published.slowfast import SlowFastFeatures
from sdst.config import Config, DataConfig, load_config
from sdst.data.feature_files import endpoint_features, unit_vectors
from sdst.errors import InputError
from sdst.grounding.grounder import Grounder
from sdst.model import SDST
from sdst.training.run_folder import RunFolder
from tests.backbones.published.tiny_slowfast import TINY, write_pickle
from tests.backbones.test_openclip import write_model
from tests.videos import write_video

SENTENCE = "a red ball rolls away"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return (
        f"local-dir:{write_model(tmp_path_factory.mktemp('clip') / 'model', dtype=torch.float32)}"
    )


@pytest.fixture
def slowfast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SlowFast's weights, and the network as small as they are."""
    whole = SlowFastFeatures.__init__
    monkeypatch.setattr(
        SlowFastFeatures, "__init__", lambda self, *given: whole(self, *given, sizes=TINY)
    )
    monkeypatch.setattr(SlowFastFeatures, "width", TINY.features)
    return write_pickle(tmp_path / "SLOWFAST.pkl")


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 48, 64, 3), np.uint8)


def last_blocks(x: Tensor, tower: nn.Module, count: int, **options: Tensor) -> Tensor:
    """Outputs of the last blocks of a transformer, as R2-Tuning collects them."""
    states = []
    for block in tower.resblocks:
        x = block(x, **options)
        states.append(x)
    return torch.stack(states[-count:])


def text_states(model: open_clip.CLIP, count: int) -> Tensor:
    """[count, N, D] of `SENTENCE`, without padding."""
    ids = open_clip.tokenize([SENTENCE], context_length=16)
    x = model.token_embedding(ids) + model.positional_embedding
    states = last_blocks(x, model.transformer, count, attn_mask=model.attn_mask)
    return states[:, 0, : int((ids != 0).sum())]


@torch.no_grad()
def test_r2_tuning_has_the_residual_stream_itself(clip: str, frames: np.ndarray) -> None:
    backbone = load_published(clip, DataConfig(features="r2_tuning"), layers=2, device="cpu")
    found = backbone.encode_frames(frames[:3])
    model, visual = backbone.model, backbone.model.visual
    images = backbone.preprocess(torch.from_numpy(frames[:3]))
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(3, 1, -1), x], 1) + visual.positional_embedding
    expected = last_blocks(visual.ln_pre(x), visual.transformer, 2)
    torch.testing.assert_close(found.tokens, expected, rtol=1e-4, atol=1e-5)
    [text] = backbone.encode_text([SENTENCE])
    torch.testing.assert_close(text.tokens, text_states(model, 2), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("folders", [["slowfast_features", "clip_features"], ["clip", "slowfast"]])
def test_moment_detr_joins_both_kinds_in_the_order_of_the_folders(
    clip: str, slowfast: Path, frames: np.ndarray, folders: list[str]
) -> None:
    data = DataConfig(features="moment_detr", video_features=folders, clip_length=1.0)
    backbone = load_published(f"{clip}+slowfast:{slowfast}", data, layers=3, device="cpu")
    assert backbone.frames_at_once == 30
    found = backbone.encode_frames(frames)  # two clips
    clips = frames.reshape(2, 30, *frames.shape[1:])
    middles = backbone._clip.preprocess(torch.from_numpy(clips[:, 14]))
    kinds = {
        "slowfast": SlowFastFeatures(slowfast, torch.device("cpu")).encode(clips),
        "clip": backbone._clip.model.encode_image(middles),
    }
    parts = [unit_vectors(kinds[folder.partition("_")[0]].numpy()) for folder in folders]
    expected = np.concatenate(parts, axis=1)
    assert found.tokens.shape == (3, 2, 1, expected.shape[1]) == (3, 2, 1, backbone.video_width)
    for layer in found.tokens:
        np.testing.assert_allclose(layer[:, 0].numpy(), expected, atol=2e-5)
    [text] = backbone.encode_text([SENTENCE])
    words = backbone._clip.model.ln_final(text_states(backbone._clip.model, 1)[0])
    expected = functional.normalize(words, dim=-1)
    torch.testing.assert_close(text.tokens[2], expected, rtol=1e-4, atol=1e-5)


def test_clip_alone_sees_a_picture_a_clip(clip: str) -> None:
    data = DataConfig(features="moment_detr", video_features=["clip_features"])
    backbone = load_published(clip, data, layers=1, device="cpu")
    assert (backbone.frames_at_once, backbone.video_width) == (1, backbone.embed_width)


@pytest.mark.parametrize(
    ("name", "folders", "reason"),
    [
        (
            "{clip}",
            ["slowfast_features", "clip_features"],
            r"slowfast and clip; expected CLIP's name and",
        ),
        ("{clip}+slowfast:none.pkl", ["clip_features"], "trained on clip; expected CLIP's name$"),
        ("{clip}+slowfast:none.pkl", ["slowfast", "clip"], r"none\.pkl: cannot be read"),
        ("{clip}", ["i3d"], "i3d: neither of SlowFast nor of CLIP"),
    ],
)
def test_what_does_not_fit_is_refused(
    clip: str, name: str, folders: list[str], reason: str
) -> None:
    data = DataConfig(features="moment_detr", video_features=folders)
    with pytest.raises(InputError, match=reason):
        load_published(name.format(clip=clip), data, layers=1, device="cpu")


def checkpoint(folder: Path, config: Config) -> Path:
    run = RunFolder(folder)
    run.begin(config)
    run.settle(config, {"features": config.data.features})
    torch.manual_seed(0)
    run.save_model(SDST(config.model))
    return folder


def config_of(features: str, recipe: str, video_width: int) -> Config:
    config = load_config(recipe)
    assert config.data.features == features and config.data.endpoints
    model = replace(
        config.model, layers=2, video_width=video_width, text_width=40, width=32, heads=2, queries=4
    )
    predict = replace(config.predict, stretch=75, overlap=20, snap=None)
    return replace(config, model=model, predict=predict)


@pytest.mark.parametrize(
    ("recipe", "width"),
    [("qvhighlights_clip_b32_patches", 32), ("qvhighlights_clip_slowfast", TINY.features + 24)],
)
def test_a_new_video_is_answered(
    tmp_path: Path, clip: str, slowfast: Path, recipe: str, width: int
) -> None:
    features = load_config(recipe).data.features
    run = checkpoint(tmp_path / "run", config_of(features, recipe, width + 2))
    video = write_video(tmp_path / "film.mp4", np.arange(0, 8, 0.1).tolist())
    with pytest.raises(InputError, match=r"--backbone ViT-B-32:openai"):
        Grounder(run)
    backbone = f"{clip}+slowfast:{slowfast}" if "slowfast" in recipe else clip
    grounder = Grounder(run, backbone=backbone)
    [answer] = grounder.ground(video, SENTENCE)
    assert len(answer.windows) and len(answer.saliency) == 4
    tokens = np.asarray(grounder.encoder.encode(video).tokens)
    assert tokens.shape[1] == 4 and tokens.shape[3] == width + 2
    np.testing.assert_allclose(tokens[..., -2:], endpoint_features(tokens.shape, 4), atol=1e-3)


def test_a_backbone_of_another_width_is_refused(tmp_path: Path, clip: str) -> None:
    config = config_of("r2_tuning", "qvhighlights_clip_b32_patches", 50)
    run = checkpoint(tmp_path / "run", config)
    with pytest.raises(InputError, match=r"gives 34 numbers a token of video.*takes 50 and 40"):
        Grounder(run, backbone=clip)
