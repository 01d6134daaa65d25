"""The YAML files of configs: where they are, what they include, and what they may hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from sdst.config.renames import rename_keys
from sdst.errors import InputError, disguise
from sdst.files.text import is_file_name, read_text
from sdst.terminal.suggest import did_you_mean

PACKAGED = Path(__file__).parents[1] / "configs"
MOST_BYTES = 2**20  # of a config file
MOST_INCLUDES = 10  # files inside each other
MOST_FILES = 100
Known = Mapping[str, Sequence[str]]  # keys of each section


def packaged_configs() -> list[str]:
    """Names that `--config` takes beside file paths."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def config_path(name: str | Path) -> Path:
    """The YAML file behind a packaged name or a path."""
    path = PACKAGED / f"{name}.yaml"
    if path.is_file():
        return path
    path = Path(name)
    if path.exists():  # what is no file is refused by who reads it
        return path
    raise InputError(
        f"config {str(name)!r}: neither a file nor one of the packaged configs "
        f"({', '.join(packaged_configs())}){did_you_mean(str(name), packaged_configs())}"
    )


class Layer(NamedTuple):
    """The content of one file, without the files it includes."""

    path: Path
    sections: dict


def read_layers(path: Path, known: Known) -> list[Layer]:
    """A config file behind all that it includes: a later layer wins over an earlier one.

    Args:
        known: the keys of every section.

    Raises:
        InputError: not a config, an unknown section or key, too many includes.
    """
    layers: list[Layer] = []
    _collect(path, known, layers, depth=0)
    return layers


def checked(content: dict, known: Known) -> dict:
    """A config's values, under the present names of its keys.

    Raises:
        InputError: an unknown section or key, or text that can name no file.
    """
    _check_names(content)
    content = rename_keys(content)
    _check_keys(content, known)
    return content


def merge(layers: Sequence[Layer]) -> dict:
    """The sections of all layers, laid over one another."""
    merged: dict = {}
    for layer in layers:
        for section, values in layer.sections.items():
            both = isinstance(values, dict) and isinstance(merged.get(section), dict)
            merged[section] = {**merged[section], **values} if both else values
    return merged


def origins(layers: Sequence[Layer]) -> dict[str, str]:
    """The file that decides each key, `section.key`, among those that any file sets."""
    found = {}
    for layer in layers:
        packaged = layer.path.is_relative_to(PACKAGED)
        name = str(layer.path.relative_to(PACKAGED) if packaged else layer.path)
        for section, values in layer.sections.items():
            keys = [f"{section}.{key}" for key in values] if isinstance(values, dict) else [section]
            found |= dict.fromkeys(keys, name)
    return found


def _collect(path: Path, known: Known, layers: list[Layer], depth: int) -> None:
    """Append the layers of `path`, the file itself last."""
    if depth > MOST_INCLUDES or len(layers) > MOST_FILES:
        raise InputError(
            f"{path}: includes itself, more than {MOST_INCLUDES} files in a row, or more than "
            f"{MOST_FILES} in all"
        )
    content = yaml.load(read_text(path, MOST_BYTES), _Loader)
    if not isinstance(content, dict):
        found = disguise(path) or f"found {str(content)[:40]!r}, expected sections with keys"
        raise InputError(found)
    content = checked(content, known)
    included = content.pop("include", [])
    if not isinstance(included, list) or not all(isinstance(name, str) for name in included):
        raise InputError(f"include is {included!r}, expected a list of config names or files")
    for name in included:
        beside = path.parent / name
        _collect(beside if beside.is_file() else config_path(name), known, layers, depth + 1)
    layers.append(Layer(path, content))


class _Loader(yaml.SafeLoader):
    """Plain YAML: a few bytes of aliases stand for gigabytes, and a key given twice is an error."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise InputError(f"line {mark.line + 1}: aliases (*name) are not taken; write it out")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            line = node.start_mark.line + 1
            raise InputError(f"line {line}: key {twice[0]!r} appears twice in one section")
        return super().construct_mapping(node, deep)


def _check_names(value: object) -> None:
    """Refuse text that the system cannot have as the name of a file."""
    if isinstance(value, dict):
        for item in value.values():
            _check_names(item)
    elif isinstance(value, list):
        for item in value:
            _check_names(item)
    elif isinstance(value, str) and not is_file_name(value):
        raise InputError(f"found {value!r}, expected text without NUL and half characters")


def _check_keys(content: dict, known: Known) -> None:
    """Refuse a section or key that there is not, with the closest ones."""
    for section, values in content.items():
        if str(section).partition(".")[0] not in {*known, "include"}:
            raise InputError(f"no section {section!r}{did_you_mean(str(section), known)}")
        if section in known and isinstance(values, dict):
            for key in values:
                if key not in known[section]:
                    advice = did_you_mean(str(key), known[section])
                    raise InputError(f"no key {section}.{key}{advice}")
