"""`train.init`: a run that begins with the weights of another, as far as they fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from sdst.errors import InputError
from sdst.files.sealed import load_tensors
from sdst.hub.models import find_model
from sdst.model import SDST
from sdst.model.on_disk import WEIGHTS_FILE
from sdst.pretrained.folder import RUN_MODEL, features_of


def first_rows(theirs: Tensor, ours: Tensor) -> Tensor:
    """Moment queries are a set: as many of theirs as there are here, the others stay ours."""
    rows = min(len(theirs), len(ours))
    return torch.cat([theirs[:rows], ours[rows:]])


def deepest(theirs: Tensor, ours: Tensor) -> Tensor:
    """Steps are counted from the deepest block of the backbone, which both read last."""
    steps = min(len(theirs), len(ours))
    return torch.cat([ours[: len(ours) - steps], theirs[len(theirs) - steps :]])


# Weights that mean the same in another number, by name.
RESIZED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "queries.embedding": first_rows,
    "queries.reference_logits": first_rows,
    "fusion": deepest,
}


@dataclass
class Start:
    """The fate of another run's weights, by name.

    Args:
        loaded: taken as they are.
        resized: taken in another number, with both shapes.
        misfits: left as they were drawn, as theirs have another shape, with both.
        lacking: left as they were drawn, as there are none of that name.
        unused: theirs, which this model has not.
    """

    source: str
    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """A line on the whole and one for each weight that was not taken as it is."""
        total = len(self.loaded) + len(self.resized) + len(self.misfits) + len(self.lacking)
        lines = [f"starting from {self.source}: {len(self.loaded)} of {total} weights as they are"]
        for title in ("resized", "misfits", "lacking", "unused"):
            lines += [f"  {title:8}  {name}" for name in getattr(self, title)]
        return "\n".join(lines)


@torch.no_grad()
def start_from(model: SDST, checkpoint: str) -> Start:
    """Copy the weights of a checkpoint into `model` where name and shape fit.

    Args:
        checkpoint: a folder or a name, as `sdst.hub.models.find_model` takes it.

    Raises:
        InputError: there are no weights, they are damaged, or no matrix fits.
    """
    theirs, _ = load_tensors(_weights_file(checkpoint), "take it from a copy, or train it again")
    start, ours = Start(checkpoint), model.state_dict()
    for name, weight in ours.items():
        if name not in theirs:
            start.lacking.append(f"{name} {_shape(weight)}")
            continue
        other = theirs[name]
        shapes = f"{name} {_shape(other)} there, {_shape(weight)} here"
        if other.shape == weight.shape:
            weight.copy_(other)
            start.loaded.append(name)
        elif name in RESIZED and other.shape[1:] == weight.shape[1:]:
            weight.copy_(RESIZED[name](other.to(weight), weight))
            start.resized.append(shapes)
        else:
            start.misfits.append(shapes)
    start.unused = [f"{name} {_shape(theirs[name])}" for name in theirs if name not in ours]
    if not any(ours[name].ndim > 1 for name in start.loaded):  # a bias fits by chance
        raise InputError(
            f"train.init {checkpoint}: none of its matrices has a name and shape of this model's; "
            "set model.width and the like as its config does, or leave train.init out"
        )
    return start


def other_features(checkpoint: str, meta: dict) -> str | None:
    """A message where a checkpoint was trained on features of another backbone; else None."""
    theirs = features_of(find_model(checkpoint))
    if theirs is None or theirs.get("fingerprint") == meta.get("fingerprint"):
        return None
    return (
        f"{checkpoint} was trained on the features of another backbone: what it knows of their "
        "values does not carry over"
    )


def _weights_file(checkpoint: str) -> Path:
    folder = find_model(checkpoint)
    for file in (folder / RUN_MODEL / WEIGHTS_FILE, folder / WEIGHTS_FILE):
        if file.is_file():
            return file
    raise InputError(
        f"train.init {checkpoint}: {WEIGHTS_FILE} not found; expected the --output folder of a "
        "training run, or the model folder in it"
    )


def _shape(weight: Tensor) -> str:
    return " x ".join(map(str, weight.shape)) or "scalar"
