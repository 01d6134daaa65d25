"""Reading and writing configs: files, what they include, and overrides key by key."""

from __future__ import annotations

import math
import re
from argparse import SUPPRESS
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser, Namespace

from sdst.config.checks import problems
from sdst.config.files import checked, config_path, merge, origins, read_layers
from sdst.config.kinds import expected
from sdst.config.renames import rename_options
from sdst.config.schema import KEYS, SECTIONS, Config, as_dict
from sdst.errors import InputError, one_line
from sdst.files.publish import replace_text
from sdst.terminal.suggest import did_you_mean

# How jsonargparse refuses a value: the key, and at the end what was given.
_REFUSED = re.compile(r'Parser key "(\w+\.\w+).*?": .*(?:Got|Given) value: (.*)')
END_OF_DOCUMENT = "...\n"  # that PyYAML writes behind a bare value


def config_parser() -> ArgumentParser:
    """A parser with one `--section.key` option per field of `Config`."""
    parser = ArgumentParser(usage=SUPPRESS, exit_on_error=False)
    for section, kind in SECTIONS.items():
        parser.add_class_arguments(kind, section)
    return parser


def config_keys() -> list[str]:
    """Every key, as `section.key`."""
    return [f"{section}.{key}" for section, keys in KEYS.items() for key in keys]


def load_config(
    name: str | Path = "demo", overrides: Sequence[str] = (), options: Iterable[str] = ()
) -> Config:
    """Read a config by packaged name or path and apply `--section.key value` overrides.

    A file may begin with `include: [NAME, ...]`, other configs that it builds on: a later one wins
    over an earlier, the file over all. A name is a path beside the file, or a packaged config.

    Args:
        options: of the command, which may be meant by an override that is no key.

    Raises:
        InputError: unknown name, key or value, naming it.
    """
    return load_with_origins(name, overrides, options)[0]


def load_with_origins(
    name: str | Path, overrides: Sequence[str] = (), options: Iterable[str] = ()
) -> tuple[Config, dict[str, str]]:
    """As `load_config`, and where each key that is not at its default comes from."""
    path = config_path(name)
    with _named(f"config {path}"):
        layers = read_layers(path, KEYS)
    overrides = _renamed(overrides, options)
    config = _config_of(merge(layers), f"config {path}", overrides)
    return config, origins(layers) | dict.fromkeys(_overridden(overrides), "command line")


def parse_config(content: dict, source: str, overrides: Sequence[str] = ()) -> Config:
    """The config that `as_dict` made plain, with overrides as of `load_config`.

    Args:
        source: what to call it in an error.

    Raises:
        InputError: unknown key or value, naming it.
    """
    with _named(source):
        content = checked(content, KEYS)
    return _config_of(content, source, _renamed(overrides))


def _config_of(content: dict, source: str, overrides: Sequence[str]) -> Config:
    parser = config_parser()
    with _named(source):
        from_file = parser.parse_object(content)
    with _named("command line"):
        namespace = parser.parse_args(overrides, namespace=from_file.clone())
    config = _from_namespace(namespace)
    if found := problems(config):
        place = source if problems(_from_namespace(from_file)) else "command line"
        raise InputError(f"{place}: {'; '.join(found)}")
    return config


def _from_namespace(namespace: Namespace) -> Config:
    sections = namespace.as_dict()
    return Config(**{name: kind(**sections[name]) for name, kind in SECTIONS.items()})


def _renamed(overrides: Sequence[str], options: Iterable[str] = ()) -> list[str]:
    """The overrides under the present names of their keys, all of them known."""
    with _named("command line"):
        overrides = rename_options(overrides)
        _check_options(overrides, options)
    return overrides


def _check_options(overrides: Sequence[str], options: Iterable[str]) -> None:
    """Refuse an option that is no key, with the closest ones."""
    names = [f"--{key}" for key in config_keys()]
    known = {*names, *(f"--{section}" for section in SECTIONS)}
    for name in (x.partition("=")[0] for x in overrides if x.startswith("--")):
        # Lists grow by --section.key+, and dictionaries have --section.key.name.
        parent = ".".join(name.removesuffix("+").split(".")[:2])
        if name not in known and (parent not in known or "." not in name):
            raise InputError(f"unknown option {name}{did_you_mean(name, [*names, *options])}")


def _overridden(overrides: Sequence[str]) -> list[str]:
    """The keys that options of the command line name."""
    names = [x.partition("=")[0].strip("-+") for x in overrides if x.startswith("--")]
    return [
        key
        for key in config_keys()
        if any(f"{name}.".startswith(f"{key}.") or key.startswith(f"{name}.") for name in names)
    ]


def save_config(config: Config, path: Path) -> None:
    """Write `config` as YAML, atomically, such that `load_config(path)` gives it back."""
    replace_text(path, yaml.safe_dump(as_dict(config), sort_keys=False))


def annotated(config: Config, origin: dict[str, str]) -> str:
    """`config` as YAML, each key with where its value comes from; none where it is the default."""
    lines = []
    for section, values in as_dict(config).items():
        lines.append(f"{section}:")
        for key, value in values.items():
            text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
            text = f"{key}: {text.removesuffix(END_OF_DOCUMENT).rstrip()}"
            if where := origin.get(f"{section}.{key}"):
                text += f"  # {where}"
            lines += [f"  {line}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Report a parser's complaint in one line that says where the fault is."""
    try:
        yield
    except RecursionError:
        raise InputError(f"{source}: nested too deeply") from None
    except Exception as error:  # PyYAML and jsonargparse each have several
        reason, file = _in_words(one_line(error)), source.removeprefix("config ")
        named = f"config {reason}" if reason.startswith(file) else f"{source}: {reason}"
        raise InputError(named) from error


def _in_words(reason: str) -> str:
    """A parser's complaint about a value, in ours."""
    if (refused := _REFUSED.fullmatch(reason)) is None:
        return reason
    key, value = refused.groups()
    return f"{key} is {value}, expected {expected(key)}"
