"""sdst: video temporal grounding with the Sparse-Dense Side-Tuner.

from sdst import SDST, Grounder
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SDST", "Grounder", "ModelConfig", "ZeroShotGrounder"]

if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounder, ZeroShotGrounder
    from sdst.model import SDST, ModelConfig

_HOMES = {
    "SDST": "model",
    "Grounder": "grounding.grounder",
    "ModelConfig": "model",
    "ZeroShotGrounder": "grounding.grounder",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `sdst.kernels` and the options of commands need none of this.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
