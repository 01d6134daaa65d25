"""Earlier names of options and keys: all still work, with a line of warning that names the new one.

A name stays here for two minor versions at least (CONTRIBUTING, "Public API").
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from functools import cache

from sdst.errors import InputError
from sdst.model.config import without_retired

logger = logging.getLogger(__name__)

# Keys of a configuration, in files and as `--section.key`.
KEYS = {
    "data.store": "data.store_dtype",
    "train.schedule": "train.lr_schedule",
    "predict.context": "predict.select_from",
}
# Their values.
VALUES = {"train.precision": {"no": "fp32"}, "train.compile": {"reduce-overhead": "default"}}
# Options of commands.
OPTIONS = {"--dtype": "--store-dtype"}


def rename_keys(content: dict) -> dict:
    """The sections of a configuration file, with today's keys and values.

    Raises:
        InputError: a key is present under both names.
    """
    renamed = dict(content)
    for section, values in content.items():
        if isinstance(values, dict):
            values = without_retired(values) if section == "model" else values
            renamed[section] = {}
            for key, value in values.items():
                name = _current(f"{section}.{key}", KEYS)
                new = name.partition(".")[2]
                if new != key and new in values:
                    raise InputError(f"{section}.{key} is an old name of {name}; give only that")
                renamed[section][new] = _current_value(name, value)
    return renamed


def rename_options(arguments: Sequence[str] | None) -> list[str]:
    """The arguments of a command (None: this process's), with today's options and values."""
    options = OPTIONS | {f"--{old}": f"--{new}" for old, new in KEYS.items()}
    renamed: list[str] = []
    key = ""  # whose value comes next
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not argument.startswith("--"):
            renamed.append(_current_value(key, argument))
            key = ""
            continue
        option, equals, value = argument.partition("=")
        option = _current(option, options)
        key = option.removeprefix("--")
        renamed.append(f"{option}={_current_value(key, value)}" if equals else option)
    return renamed


def _current(name: str, names: dict[str, str]) -> str:
    if name not in names:
        return name
    _warn(name, names[name])
    return names[name]


def _current_value(key: str, value):
    names = VALUES.get(key, {})
    if not isinstance(value, str) or value not in names:
        return value
    _warn(f"{key} {value}", names[value])
    return names[value]


@cache
def _warn(old: str, new: str) -> None:
    """Once in a process."""
    logger.warning("%s is now called %s; the old name still works", old, new)
