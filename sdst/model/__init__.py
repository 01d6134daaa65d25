"""The Sparse-Dense Side-Tuner, its losses and its matching."""

from sdst.model.config import ModelConfig
from sdst.model.losses import LossConfig, Targets, grounding_loss
from sdst.model.tuner import SDST, Outputs, parameter_count

__all__ = [
    "SDST",
    "LossConfig",
    "ModelConfig",
    "Outputs",
    "Targets",
    "grounding_loss",
    "parameter_count",
]
