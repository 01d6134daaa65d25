"""Nothing imports upward: each package of sdst knows only those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sdst

ROOT = Path(sdst.__file__).parent
BASICS = {"files", "hub", "terminal"}  # which all may use, and which know none of the others
BELOW = {  # from the ground up
    "kernels": set(),
    "model": {"kernels"},
    "data": set(),
    "evaluation": {"data"},
    "config": {"data", "model", "evaluation"},
    "plots": {"data"},
    "backbones": {"kernels", "config"},
    "demo": {"data"},
    "importing": {"data"},
    "pretrained": {"model", "config"},
    "extraction": {"data", "config", "backbones"},
    "indexing": {"data"},
    "sources": {"data", "config", "backbones", "demo", "extraction"},
    "grounding": {
        "kernels",
        "model",
        "data",
        "evaluation",
        "config",
        "plots",
        "backbones",
        "demo",
        "pretrained",
        "extraction",
        "indexing",
        "sources",
    },
    "exporting": {"config", "data", "grounding", "kernels", "model", "pretrained"},
    "serving": {"data", "grounding", "indexing"},
    "training": {
        "kernels",
        "model",
        "data",
        "evaluation",
        "config",
        "pretrained",
        "sources",
        "grounding",
    },
}


def imported(file: Path) -> set[str]:
    """Packages of sdst that `file` imports, anywhere in it."""
    modules = [
        module
        for node in ast.walk(ast.parse(file.read_text()))
        for module in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
    ]
    return {module.split(".")[1] for module in modules if module.startswith("sdst.")}


def imported_by(package: str) -> set[str]:
    """Packages of sdst that any file of `package` imports."""
    found = set().union(*(imported(file) for file in (ROOT / package).rglob("*.py")))
    return found & (set(BELOW) | BASICS)


@pytest.mark.parametrize("package", BELOW)
def test_a_package_knows_only_those_below_it(package: str) -> None:
    assert imported_by(package) <= {package} | BELOW[package] | BASICS


@pytest.mark.parametrize("package", BASICS)
def test_the_basics_know_each_other_alone(package: str) -> None:
    assert imported_by(package) <= BASICS


def test_no_two_packages_know_each_other() -> None:
    order = list(BELOW)
    for package, below in BELOW.items():
        assert below <= set(order[: order.index(package)]), package


def test_every_package_has_its_place() -> None:
    packages = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()}
    assert packages == set(BELOW) | BASICS
