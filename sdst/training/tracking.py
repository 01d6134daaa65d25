"""Where a run's curves go: TensorBoard's files in its folder, or an experiment tracker."""

from __future__ import annotations

from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from sdst.errors import InputError

PROJECT = "sdst"  # of wandb, experiment of MLflow


def check_tracker(name: str) -> None:
    """Refuse a tracker whose package is not installed."""
    if name != "none" and name not in map(str, get_available_trackers()):
        raise InputError(
            f"train.tracker {name}: the package is not installed; run `pip install {name}`, or "
            "take tensorboard or none"
        )


def start_tracker(accelerator: Accelerator, name: str, output: Path, origin: dict) -> None:
    """Begin to track a run; TensorBoard has its files in `output`, the others `origin` as well.

    Args:
        name: `train.tracker`.
        output: the run's folder, whose name the run has.
        origin: its `provenance`.
    """
    if name == "tensorboard":
        accelerator.init_trackers("tensorboard")  # the folder's name
        return
    options = {
        "wandb": {"name": output.name, "dir": str(output)},
        "mlflow": {"run_name": output.name},
    }
    accelerator.init_trackers(PROJECT, config=_flat(origin), init_kwargs=options)


def log(accelerator: Accelerator, name: str, values: dict[str, float], step: int) -> None:
    """Log `values` at an optimiser step; MLflow takes no `@` in their names."""
    if name == "mlflow":
        values = {key.replace("@", "_at_"): value for key, value in values.items()}
    accelerator.log(values, step=step)


def _flat(values: dict, prefix: str = "") -> dict[str, str | int | float | bool | None]:
    """Nested dictionaries as one, keys joined by dots, lists as text."""
    found: dict[str, str | int | float | bool | None] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            plain = value is None or isinstance(value, str | int | float | bool)
            found[prefix + key] = value if plain else str(value)
    return found
