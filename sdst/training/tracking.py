"""Where a run's curves go: TensorBoard's files in its folder, or an experiment tracker."""

from __future__ import annotations

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


def start_tensorboard(accelerator: Accelerator) -> None:
    """Begin to write TensorBoard's files, where that is the tracker, into the run's folder."""
    if "tensorboard" in map(str, accelerator.log_with):
        accelerator.init_trackers("tensorboard")  # the files' folder


def start_tracker(accelerator: Accelerator, name: str, run: str, origin: dict) -> None:
    """Begin to track a run elsewhere, with its `origin`; its settings are the environment's.

    Args:
        name: `train.tracker`.
        run: what to call the run.
        origin: its `provenance`.

    Raises:
        InputError: the tracker refuses, with its reason.
    """
    if name in ("tensorboard", "none"):
        return
    options = {"wandb": {"name": run}, "mlflow": {"run_name": run}}
    try:
        accelerator.init_trackers(PROJECT, config=_flat(origin), init_kwargs=options)
    except Exception as error:  # each tracker has its own
        reason = " ".join(str(error).split())
        raise InputError(f"train.tracker {name}: cannot be started: {reason}") from error


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
