"""sdst: video temporal grounding with the Sparse-Dense Side-Tuner.

from sdst import SDST, Grounder
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["SDST", "Grounder", "ModelConfig", "ZeroShotGrounder"]

if TYPE_CHECKING:
    from sdst.grounding.grounder import Grounder
    from sdst.grounding.zero_shot_grounder import ZeroShotGrounder
    from sdst.model import SDST, ModelConfig
else:
    from sdst.lazy import names_of

    __getattr__, __dir__ = names_of(
        __name__,
        {
            "SDST": "model",
            "Grounder": "grounding.grounder",
            "ModelConfig": "model",
            "ZeroShotGrounder": "grounding.zero_shot_grounder",
        },
    )
