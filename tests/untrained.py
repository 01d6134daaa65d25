"""An untrained grounder on the demo's tiny backbone, and what it is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from sdst.backbones import load_backbone
from sdst.config import Config, load_config
from sdst.model import SDST
from sdst.training.run_folder import RunFolder

QUERIES = ["the red square spins", "a small blue circle moves to the left"]


def write_checkpoint(path: Path, config: Config, fingerprint: str | None = None) -> Path:
    """An untrained model, laid out as training on the demo's backbone leaves one."""
    backbone = load_backbone(config.data.backbone, config.model.layers)
    folder = RunFolder(path)
    folder.begin(config)
    features = {"features": config.data.features}
    if config.data.features == "encode":
        features = {"fingerprint": fingerprint or backbone.fingerprint}
    folder.settle(config, features)
    torch.manual_seed(0)
    folder.save_model(SDST(config.model))
    return path


def small_config() -> Config:
    config = load_config("demo")
    return replace(config, model=replace(config.model, width=32, queries=6))
