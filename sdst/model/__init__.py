"""The Sparse-Dense Side-Tuner, its losses and its matching."""

from sdst.model.config import ModelConfig
from sdst.model.losses import LossConfig, Targets, grounding_loss
from sdst.model.tuner import SDST, Outputs, parameter_count
from sdst.model.video import EncodedVideo

__all__ = [
    "SDST",
    "EncodedVideo",
    "LossConfig",
    "ModelConfig",
    "Outputs",
    "Targets",
    "grounding_loss",
    "parameter_count",
]
