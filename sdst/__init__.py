"""sdst: video temporal grounding with the Sparse-Dense Side-Tuner.

from sdst import SDST, Grounder
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["SDST", "Grounder", "ModelConfig", "ZeroShotGrounder"]

if TYPE_CHECKING:
    from sdst.grounder import Grounder, ZeroShotGrounder
    from sdst.model import SDST, ModelConfig


def __getattr__(name: str) -> Any:
    # Imported on first use: `python -m sdst.info` and the kernels need none of this.
    if name in ("Grounder", "ZeroShotGrounder"):
        from sdst import grounder

        return getattr(grounder, name)
    if name in ("SDST", "ModelConfig"):
        from sdst import model

        return getattr(model, name)
    raise AttributeError(f"module 'sdst' has no attribute {name!r}")
