"""Options in a backbone's name: `NAME[,option=value...]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sdst.errors import InputError

Kind = type | tuple[str, ...]


def parse_options(name: str, kinds: Mapping[str, Kind]) -> tuple[str, dict[str, Any]]:
    """The name without its options, and these by their names.

    Args:
        kinds: of every option: `str`, `int` (1 or more), `bool`, or the words that it may be.

    Raises:
        InputError: an option that there is not, or a value of another kind.
    """
    base, *given = re.split(r",(?=\w+=)", name)
    options: dict[str, Any] = {}
    for key, value in (option.split("=", 1) for option in given):
        if key not in kinds:
            raise InputError(
                f"backbone {name}: unknown option {key}; expected one of {', '.join(kinds)}"
            )
        kind = kinds[key]
        choices = ("true", "false") if kind is bool else kind
        if isinstance(choices, tuple) and value not in choices:
            raise InputError(
                f"backbone {name}: {key} is {value!r}; expected {' or '.join(choices)}"
            )
        if kind is int and not re.fullmatch(r"[1-9]\d*", value):
            raise InputError(f"backbone {name}: {key} is {value!r}; expected 1 or more")
        converted = {bool: lambda v: v == "true", int: int}.get(kind, str)
        options[key] = converted(value)
    return base, options
