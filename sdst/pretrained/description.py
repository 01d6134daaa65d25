"""A model's description: everything about it but the weights."""

from __future__ import annotations

from dataclasses import dataclass

from sdst.config import Config


@dataclass(frozen=True)
class Description:
    """How a model answers, on what, and where it comes from.

    Args:
        config: of its training; of `data.root` the folder's name alone.
        features: what decides the features that it was trained on, as `Data.meta` has it.
        results: figures, as `results_of` makes them; None before the training's end.
        provenance: code, machine and command, as `sdst.training.provenance` has it; None likewise.
        license: of the weights, an identifier as hubs know it; None: not stated.
    """

    config: Config
    features: dict
    results: dict | None = None
    provenance: dict | None = None
    license: str | None = None
