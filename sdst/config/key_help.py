"""Help on configuration keys, from the docstrings and defaults of the configuration's classes."""

from __future__ import annotations

import inspect
import re
import textwrap
from argparse import SUPPRESS, Action, ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from typing import Any

from sdst.config.kinds import expected
from sdst.config.schema import SECTIONS

# The keys that people change, and the unit of each.
COMMON = {
    "data.root": "folder",
    "data.backbone": "name",
    "data.clip_length": "seconds",
    "model.layers": "blocks",
    "model.context": "",
    "train.epochs": "passes",
    "train.batch_size": "queries",
    "train.lr": "",
    "train.precision": "",
    "train.seed": "",
}
WIDTH = 100
COLUMN = 30  # where descriptions begin
_HEADING = "configuration keys, with the defaults of those that the config does not set"
# Where a number comes from, which matters in the code and in docs/recipes.md: [P], [D: TadTR], ...
_MARK = re.compile(r"\s*\[[PDS](?:[:,][^\]]*)?\]")


def common_keys() -> str:
    """The keys that people change, one after the other."""
    lines = [_entry(key, item, text) for key, item, text in _keys() if key in COMMON]
    return "\n".join([f"{_HEADING} (--help-all shows all of them):", *lines])


def all_keys() -> str:
    """Every key of a config, by section."""
    lines = [f"{_HEADING}:"]
    section = ""
    for key, item, text in _keys():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines.append(f"\n{section}:")
        lines.append(_entry(key, item, text))
    return "\n".join(lines)


class HelpAll(Action):
    """Prints the options of the command and every key of a config."""

    def __init__(self, option_strings: list[str], dest: str = SUPPRESS, **others: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=SUPPRESS, help=others.get("help"))

    def __call__(self, parser: ArgumentParser, options: Namespace, *others: Any) -> None:
        parser.epilog = all_keys()
        parser.print_help()
        parser.exit()


def _keys() -> Iterator[tuple[str, Field, str]]:
    """Name, field and description of every key."""
    for section, kind in SECTIONS.items():
        texts = _descriptions(kind)
        for item in fields(kind):
            yield f"{section}.{item.name}", item, texts[item.name]


def _descriptions(kind: type) -> dict[str, str]:
    """The docstring's description of each field, in one line and without marks."""
    arguments = (inspect.getdoc(kind) or "").partition("Args:\n")[2]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", arguments, re.MULTILINE)
    return {name: _MARK.sub("", re.sub(r"\s+", " ", text)) for name, text in found}


def _entry(key: str, item: Field, text: str) -> str:
    notes = [COMMON[key]] if COMMON.get(key) else []
    if "Literal" in str(item.type):
        notes.append(expected(key))
    default = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc]
    notes.append(f"default: {'none' if default is None else default}")
    name = f"  --{key}"
    gap = " " * max(2, COLUMN - len(name))
    described = f"{text.rstrip('.')} ({'; '.join(notes)})"
    return textwrap.fill(
        name + gap + described,
        WIDTH,
        subsequent_indent=" " * COLUMN,
        break_on_hyphens=False,
        break_long_words=False,
    )
