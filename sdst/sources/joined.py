"""Other datasets that a model learns from as well, `data.also`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from sdst.config import Config, load_config
from sdst.errors import InputError
from sdst.sources.dataset import Data, open_data

# What one model needs the features of all its datasets to have in common.
_ONE_BACKBONE = "one model takes features of one backbone"
SHAPES = ("layers", "tokens_per_frame", "video_width", "text_width")


def with_others(data: Data) -> Data:
    """`data` with the datasets that its config names under `data.also` opened.

    Raises:
        InputError: one cannot be opened, or has features of another backbone or kind.
    """
    others = dict(_opened(data))
    if not others:
        return data
    return replace(data, others=others, meta={**data.meta, "also": _identities(others)})


def _opened(data: Data) -> Iterator[tuple[str, Data]]:
    for file in data.config.data.also:
        config = _config_of(file, data.config)
        try:
            other = open_data(config)
        except InputError as error:
            raise InputError(f"data.also {file}: {error}") from None
        if fault := _misfit(data, other):
            raise InputError(f"data.also {file}: {fault}")
        yield Path(file).stem, other


def _config_of(file: str, main: Config) -> Config:
    """How another dataset is read and scored; the model and its training are those of `main`.

    What makes a run a trial holds for all datasets.
    """
    trial = {
        "limit": main.data.limit,
        "allow_missing": main.data.allow_missing or None,
        "planted": main.data.planted or None,
    }
    given = [
        part
        for key, value in trial.items()
        if value is not None
        for part in (f"--data.{key}", str(value).lower())
    ]
    config = load_config(file, given)
    if config.data.also:
        raise InputError(f"data.also {file}: names others in turn; name all of them here")
    train = replace(main.train, select_by=config.train.select_by)
    return replace(main, data=config.data, predict=config.predict, train=train)


def _misfit(data: Data, other: Data) -> str | None:
    """Why one model cannot learn from the features of both; None if it can."""
    if data.meta.get("fingerprint") != other.meta.get("fingerprint"):
        return f"is read as {_maker(other)}, {_name(data)} as {_maker(data)}; {_ONE_BACKBONE}"
    for name in SHAPES:
        if data.source.shapes[name] != other.source.shapes[name]:
            return (
                f"{name} of its features is {other.source.shapes[name]}, of those of {_name(data)} "
                f"{data.source.shapes[name]}; {_ONE_BACKBONE}"
            )
    ours, theirs = _number_type(data), _number_type(other)
    if ours != theirs:
        return (
            f"its features are {theirs}, those of {_name(data)} {ours}; pack both by "
            "`python -m sdst.convert`, or encode both with one data.store_dtype"
        )
    return None


def _maker(data: Data) -> str:
    """The maker of the features, in words."""
    if "fingerprint" in data.meta:
        return f"features of the backbone {data.config.data.backbone}"
    return f"files in the layout {data.config.data.features}"


def _name(data: Data) -> str:
    return data.config.data.root or data.config.data.dataset


def _number_type(data: Data) -> str:
    return str(data.source.video(data.splits["train"][0].vid).tokens.dtype)


def _identities(others: dict[str, Data]) -> dict:
    """The settings that decide what is learned from them, for a run that is resumed."""
    return {
        name: {**other.meta, "clip_length": other.config.data.clip_length}
        for name, other in others.items()
    }
