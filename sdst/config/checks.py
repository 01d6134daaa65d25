"""Checks of a config: numbers within their ranges, keys that go together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sdst.config.schema import FROM_FEATURES, Config, DataConfig
from sdst.model.config import ModelConfig


def problems(config: Config) -> list[str]:
    """A line for each fault; none for a config that can be run."""
    found = _with_some_width(config.model).problems()
    for expected, is_right, keys in _RANGES:
        for section, name in (key.split(".") for key in keys.split()):
            value = getattr(getattr(config, section), name)
            if isinstance(value, int | float) and not is_right(value):
                found.append(f"{section}.{name} is {value}, expected {expected}")
    predict = config.predict
    if predict.overlap is not None and not 0 <= predict.overlap < (predict.stretch or math.inf):
        found.append(
            f"predict.overlap is {predict.overlap}, expected at least 0 and less than "
            f"predict.stretch ({predict.stretch})"
        )
    if config.train.accumulation > 0 and config.train.batch_size % config.train.accumulation:
        found.append(
            f"train.batch_size {config.train.batch_size} is not a multiple of "
            f"train.accumulation {config.train.accumulation}"
        )
    if config.data.on_device is True and config.train.workers:
        found.append("data.on_device needs train.workers 0; other processes cannot share it")
    if config.data.on_device is True and config.data.also:
        found.append("data.on_device is for one dataset; leave it out with data.also")
    return found + _data_problems(config.data) + _planted_problems(config)


_RANGES: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    (
        "more than 0",
        lambda x: 0 < x < math.inf,
        "data.clip_length data.frames_per_clip data.every data.limit data.pad_to train.epochs "
        "train.batch_size train.accumulation train.validate_every train.lr train.clip_norm "
        "predict.round_to predict.snap predict.nms_sigma predict.stretch",
    ),
    (
        "at least 0",
        lambda x: 0 <= x < math.inf,
        "train.weight_decay train.offsets_lr train.warmup_steps train.workers",
    ),
    ("0 to 1", lambda x: 0 <= x <= 1, "train.decay_at predict.nms_threshold loss.query_dropout"),
    ("0 to 2^32 - 1", lambda x: 0 <= x < 2**32, "train.seed"),
)


def _with_some_width(model: ModelConfig) -> ModelConfig:
    """`model` with a width where it is left to the features."""
    return replace(
        model,
        video_width=model.video_width if model.video_width != FROM_FEATURES else 1,
        text_width=model.text_width if model.text_width != FROM_FEATURES else 1,
    )


def _data_problems(data: DataConfig) -> list[str]:
    from sdst.evaluation.protocols import PROTOCOLS  # brings NumPy, which a wrong key needs not

    found = []
    from_files = data.features != "encode"
    has_text = data.text_features or data.sentences == "none"
    if from_files and not (data.video_features and has_text):
        found.append(
            f"data.features is {data.features}, so data.video_features and data.text_features must "
            "name the folders of the files"
        )
    if data.protocol not in PROTOCOLS:
        found.append(
            f"data.protocol is {data.protocol!r}, expected one of {', '.join(sorted(PROTOCOLS))}"
        )
    found += [
        f"data.also {name} is {weight}, expected a weight of more than 0"
        for name, weight in data.also.items()
        if not 0 < weight < math.inf
    ]
    names = [Path(name).stem for name in data.also]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        found.append(f"data.also has two configs called {twice[0]}; rename one")
    found += [
        f"data.{name} goes with features from files, not with data.features encode"
        for name in ("endpoints", "last_layer")
        if getattr(data, name) and not from_files
    ]
    return found


def _planted_problems(config: Config) -> list[str]:
    if not config.data.planted:
        return []
    found = config.planted.problems()
    if config.data.features == "encode":
        found.append(
            "data.planted makes up feature files, so data.features must name their layout, not "
            "encode"
        )
    found += [
        f"model.{name} is left to the features; data.planted makes them up, so give it"
        for name in ("video_width", "text_width")
        if getattr(config.model, name) == FROM_FEATURES
    ]
    return found
