"""What a key may be, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sdst.config.schema import SECTIONS

_ONE = {int: ("a whole number",), float: ("a number",), str: ("text",)}
_ONE |= {bool: ("true", "false"), NoneType: ("null",)}
_SEVERAL = {int: "whole numbers", str: "texts"}


def expected(key: str) -> str:
    """The values that `section.key` takes: "a whole number or auto"."""
    section, name = key.split(".")[:2]
    return _listed(_alternatives(get_type_hints(SECTIONS[section])[name]))


def _alternatives(kind: Any) -> Iterator[str]:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        yield from parts
    elif origin in (Union, UnionType):
        for part in parts:
            yield from _alternatives(part)
    elif origin is dict:
        yield f"names with {_listed(_alternatives(parts[1]))} each"
    elif origin in (list, tuple):
        yield f"a list of {_SEVERAL[parts[0]]}"
    else:
        yield from _ONE[kind]


def _listed(alternatives: Iterable[str]) -> str:
    *others, last = alternatives
    return f"{', '.join(others)} or {last}" if others else last
