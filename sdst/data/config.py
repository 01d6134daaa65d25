"""How features are planted, as numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class PlantedConfig:
    """How hard planted features are.

    Args:
        signal: length of a moment's meaning in a clip of highest rating.
        noise: length of the background's meaning.
        layers: how many of the stored layers, counted from the last, show moments.
        smear: clips over which a moment's edges blur, as a Gaussian's width.
        distractors: moments per query that it does not describe, where the video has room.
        likeness: cosine of a distractor's meaning with its query's, 0 to 1.
        seed: features are a function of it, of this config and of the annotations of all splits.
    """

    signal: float = 1.0
    noise: float = 2.0
    layers: int = 3
    smear: float = 1.0
    distractors: int = 1
    likeness: float = 0.5
    seed: int = 0

    def problems(self) -> list[str]:
        """Every reason why nothing can be planted with these numbers; empty if something can."""
        at_least = {"signal": 0, "noise": 0, "layers": 1, "smear": 0, "distractors": 0, "seed": 0}
        found = [
            f"planted.{name} is {getattr(self, name)}, expected at least {least}"
            for name, least in at_least.items()
            if getattr(self, name) < least
        ]
        if not 0 <= self.likeness <= 1:
            found.append(f"planted.likeness is {self.likeness}, expected 0 to 1")
        return found
