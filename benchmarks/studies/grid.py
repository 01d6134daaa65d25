"""A study's grid: a recipe, what all rows change in it, and what each row changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sdst.errors import InputError

FOLDER = Path(__file__).parent / "grids"
GRIDS = {path.stem: path for path in FOLDER.glob("*.yaml")}


@dataclass(frozen=True)
class Grid:
    """The rows of a comparison.

    Args:
        recipe: a config, by name or file.
        rows: values by `section.key` that a row changes, by its label; the first is the baseline.
        options: values by `section.key` that all rows change.
        published: published figures to show as well, a benchmark of `published.yaml`.
    """

    recipe: str
    rows: dict[str, dict[str, object]]
    options: dict[str, object] = field(default_factory=dict)
    published: str | None = None

    def of_row(self, name: str, more: Iterable[str] = ()) -> list[str]:
        """Changes of a row to the recipe, as `--section.key value`.

        Args:
            more: such options for all rows; a row's own win.
        """
        return [*_as_options(self.options), *more, *_as_options(self.rows[name])]

    def folder(self, name: str) -> str:
        """A row's label, up to a colon, as the name of a folder."""
        return re.sub(r"\W+", "-", name.partition(":")[0]).strip("-").lower()


def read_grid(name: str) -> Grid:
    """A grid by name or file.

    Raises:
        InputError: it is missing or something else, naming what.
    """
    path = GRIDS.get(name, Path(name))
    if not path.is_file():
        raise InputError(f"grid {name!r}: neither a file nor one of {', '.join(sorted(GRIDS))}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    keys = {"recipe", "rows", "options", "published"}
    if not isinstance(content, dict) or not {"recipe", "rows"} <= content.keys() <= keys:
        raise InputError(f"{path}: expected the keys recipe and rows, perhaps options, published")
    rows = content["rows"]
    if not isinstance(rows, dict) or not rows or not all(_is_changes(row) for row in rows.values()):
        raise InputError(f"{path}: rows must map labels to {{section.key: value, ...}}")
    if not _is_changes(content.get("options", {})):
        raise InputError(f"{path}: options must be {{section.key: value, ...}}")
    rows = {str(label): row or {} for label, row in rows.items()}
    grid = Grid(content["recipe"], rows, content.get("options") or {}, content.get("published"))
    if len({grid.folder(label) for label in rows}) < len(rows):
        raise InputError(f"{path}: labels of rows must differ in their words before a colon")
    return grid


def _is_changes(value: object) -> bool:
    return value is None or (
        isinstance(value, dict) and all(isinstance(k, str) and "." in k for k in value)
    )


def _as_options(changes: dict[str, object]) -> list[str]:
    return [part for key, value in changes.items() for part in (f"--{key}", _text(value))]


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
