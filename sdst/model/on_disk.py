"""A model's weights and configuration as files, each with a checksum."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from torch import nn

from sdst.errors import InputError, one_line
from sdst.files.publish import replace_text
from sdst.files.sealed import load_tensors, read_sealed, save_tensors, seal
from sdst.hub.models import find_model
from sdst.model.calibration import Calibration
from sdst.model.config import ModelConfig, without_retired

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
TAKE_A_COPY = "take it from a copy, or train again"

Model = TypeVar("Model", bound="OnDisk")


class OnDisk(nn.Module):
    """A model that its configuration alone builds, and that files keep.

    Attributes:
        config: builds it.
        calibration: kept with the weights.
    """

    config: ModelConfig
    calibration: Calibration | None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights and their configuration into `folder`, each with a checksum.

        `Grounder.save_pretrained` writes these and all else that answering needs.
        """
        config = asdict(self.config)
        metadata = {"config": json.dumps(config)}
        if self.calibration is not None:
            metadata["calibration"] = self.calibration.to_json()
        save_tensors(Path(folder) / WEIGHTS_FILE, self.state_dict(), **metadata)
        replace_text(Path(folder) / CONFIG_FILE, seal(config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls: type[Model], checkpoint: str | Path) -> Model:
        """The model that `save_pretrained` wrote, to be evaluated.

        Args:
            checkpoint: its folder, or as for `Grounder`.

        Raises:
            InputError: there is none, or it is damaged.
            RuntimeError: the weights lack some of the model's, or have others.
        """
        folder = find_model(checkpoint)
        file = folder / CONFIG_FILE
        config = read_sealed(file, TAKE_A_COPY)
        try:
            model = cls(ModelConfig(**without_retired(config)))
        except (TypeError, ValueError) as error:
            raise InputError(f"{file}: describes no model ({one_line(error)})") from error
        model.load_weights(folder / WEIGHTS_FILE)
        return model.eval()

    def load_weights(self, file: Path) -> None:
        """Take the weights that `save_pretrained` wrote.

        Raises:
            InputError: they are damaged, or of another configuration.
            RuntimeError: they lack some of this model's, or have others.
        """
        weights, metadata = load_tensors(file, TAKE_A_COPY)
        ours = json.loads(json.dumps(asdict(self.config)))
        theirs = json.loads(metadata.get("config", "{}"))
        if other := [name for name in theirs if theirs[name] != ours.get(name)]:
            name = other[0]
            raise InputError(
                f"{file}: weights of a model with {name} {theirs[name]}, its config.json says "
                f"{ours.get(name)}; take both from one training run"
            )
        self.load_state_dict(weights)
        self.calibration = None
        if "calibration" in metadata:
            try:
                curves = Calibration.from_json(metadata["calibration"], self.config.layers)
            except ValueError as error:
                raise InputError(f"{file}: damaged ({error}); take it from a copy") from None
            self.calibration = curves
