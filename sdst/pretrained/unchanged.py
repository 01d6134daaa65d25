"""Checks that a model is as training wrote it, and that its inputs are those of the training."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from sdst.config import Config, as_dict
from sdst.errors import InputError
from sdst.files.sealed import read_sealed

logger = logging.getLogger(__name__)

RUN_CONFIG, SEALED_CONFIG = "config.yaml", "config.json"  # of a training run's folder
# Keys of `data` that decide what features are.
_OF_FEATURES = (
    "features",
    "clip_length",
    "frames_per_clip",
    "video_features",
    "text_features",
    "endpoints",
    "every",
)
# What features from anywhere must share with those of the training.
_OF_ALL_FEATURES = ("fingerprint", *_OF_FEATURES, "planted", "shape")


def changes(old: dict, new: dict, names: Iterable[str]) -> list[str]:
    """Those of `names` that both have, at different values."""
    return [
        f"{name} was {old[name]!r}, now {new[name]!r}"
        for name in names
        if name in old and name in new and old[name] != new[name]
    ]


def check_features(checkpoint: str | Path, config: Config, trained: dict) -> None:
    """Refuse a configuration of other features than those the checkpoint was `trained` on.

    Raises:
        InputError: a key that decides what they are is not as it was.
    """
    data = as_dict(config)["data"]
    if "fingerprint" in trained:  # of a backbone
        trained = trained | {"features": "encode"}
    for name in _OF_FEATURES:
        if name in trained and trained[name] != data[name]:
            raise InputError(
                f"checkpoint {checkpoint}: data.{name} is {data[name]!r}, but it was trained on "
                f"features of {trained[name]!r}; set its configuration back"
            )


def check_source(checkpoint: str | Path, trained: dict, features: dict) -> None:
    """Refuse features that are not of the kind that the checkpoint was `trained` on.

    Args:
        features: what decides them, `Data.meta`.

    Raises:
        InputError: a backbone of other weights or another preprocessing made them, for one.
    """
    if different := changes(trained, features, _OF_ALL_FEATURES):
        raise InputError(
            f"checkpoint {checkpoint}: was trained on other features than these "
            f"({'; '.join(different)}); give those of its training"
        )


def report_edits(run: Path, config: Config) -> None:
    """Warn where the config of a run is not as training wrote it: edited, or damaged.

    Raises:
        InputError: the checksummed copy is damaged.
    """
    file = run / SEALED_CONFIG
    if not file.is_file():  # of an earlier version
        return
    sections = read_sealed(file, f"remove it to take {RUN_CONFIG} as it is")
    now = as_dict(config)
    different = [
        f"{section}.{change}"
        for section, values in sections.items()
        if isinstance(values, dict)
        for change in changes(values, now.get(section, {}), values)
    ]
    if different:
        logger.warning(
            "%s: not as training wrote it (%s); edited, or damaged: %s holds what it was",
            *(run / RUN_CONFIG, "; ".join(different), SEALED_CONFIG),
        )
