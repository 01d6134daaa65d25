"""The Sparse-Dense Side-Tuner, its losses and its matching."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdst.model.config import LossConfig, ModelConfig
    from sdst.model.losses import Targets, grounding_loss
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

_HOMES = {
    "SDST": "tuner",
    "EncodedVideo": "video",
    "LossConfig": "config",
    "ModelConfig": "config",
    "Outputs": "tuner",
    "Targets": "losses",
    "grounding_loss": "losses",
    "parameter_count": "tuner",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `sdst.model.config` is read before a command needs PyTorch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
