"""Names that are imported on first use: Python, editors and type checkers find the same."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest


def names_for_checkers(file: str) -> dict[str, str]:
    """The modules that a package imports its names from under `TYPE_CHECKING`."""
    blocks = [node for node in ast.parse(Path(file).read_text()).body if isinstance(node, ast.If)]
    imports = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in imports for alias in node.names}


@pytest.mark.parametrize("package", ["sdst", "sdst.model"])
def test_checkers_find_what_python_finds(package: str) -> None:
    module = import_module(package)
    assert module.__file__ is not None
    declared = names_for_checkers(module.__file__)
    assert set(declared) == set(module.__all__)
    for name, home in declared.items():
        assert getattr(module, name) is getattr(import_module(home), name)


@pytest.mark.parametrize("package", ["sdst", "sdst.model"])
def test_names_are_listed_before_their_first_use(package: str) -> None:
    module = import_module(package)
    assert set(module.__all__) <= set(dir(module))


def test_another_name_is_refused_as_python_refuses_it() -> None:
    with pytest.raises(AttributeError, match=r"module 'sdst' has no attribute 'Grunder'"):
        import_module("sdst").Grunder  # noqa: B018
