"""The Sparse-Dense Side-Tuner, its losses and its matching."""

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from sdst.model.config import LossConfig, ModelConfig
    from sdst.model.losses import Targets, grounding_loss
    from sdst.model.tuner import SDST, Outputs, parameter_count
    from sdst.model.video import EncodedVideo
else:
    from sdst.lazy import names_of

    __getattr__, __dir__ = names_of(
        __name__,
        {
            "SDST": "tuner",
            "EncodedVideo": "video",
            "LossConfig": "config",
            "ModelConfig": "config",
            "Outputs": "tuner",
            "Targets": "losses",
            "grounding_loss": "losses",
            "parameter_count": "tuner",
        },
    )
