"""How features are planted, as numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class PlantedConfig:
    """How hard planted features are.

    Args:
        signal: length of a moment's meaning in a clip of highest rating.
        noise: length of the background's meaning.
        layers: how many of the stored layers, counted from the last, show moments.
        smear: clips over which a moment's edges blur, as a Gaussian's width.
        distractors: moments per query that it does not describe, where the video has space.
        likeness: cosine of a distractor's meaning with its query's, 0 to 1.
        order: moments have two phases, and decoys show them in the wrong order.
        binding: moments show two objects, and decoys exchange their properties.
        decoys: of each query, at most, where the video has space; with both kinds in turns.
        nonlinear: share of the tokens' variance that is no linear function of meanings, 0 to 1.
        seed: features are a function of it, of this config and of the annotations of all splits.
    """

    signal: float = 1.0
    noise: float = 2.0
    layers: int = 3
    smear: float = 1.0
    distractors: int = 1
    likeness: float = 0.5
    order: bool = False
    binding: bool = False
    decoys: int = 3
    nonlinear: float = 0.0
    seed: int = 0

    def problems(self) -> list[str]:
        """Every reason why nothing can be planted with these numbers; empty if something can."""
        at_least = {"signal": 0, "noise": 0, "smear": 0, "distractors": 0, "decoys": 0, "seed": 0}
        at_least["layers"] = 1
        found = [
            f"planted.{name} is {getattr(self, name)}, expected at least {least}"
            for name, least in at_least.items()
            if getattr(self, name) < least
        ]
        found += [
            f"planted.{name} is {getattr(self, name)}, expected 0 to 1"
            for name in ("likeness", "nonlinear")
            if not 0 <= getattr(self, name) <= 1
        ]
        return found

    def identity(self) -> dict:
        """The settings that decide the features.

        Keys of kinds that are off are left out, so stores packed by a version that does not know a
        kind stay valid.
        """
        kinds = {"order": self.order, "binding": self.binding, "nonlinear": self.nonlinear}
        kinds["decoys"] = self.order or self.binding
        return {key: value for key, value in asdict(self).items() if kinds.get(key, True)}
