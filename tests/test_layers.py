"""Nothing imports upward: each package of sdst knows only those below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sdst

ROOT = Path(sdst.__file__).parent
BASICS = {"files", "hub", "terminal"}  # which all may use, and which know none of the others
BELOW = {
    "kernels": set(),
    "model": {"kernels"},
    "config": {"data", "model"},
    "plots": {"data"},
    "backbones": {"kernels"},
    "data": set(),
    "demo": {"data"},
    "importing": {"data"},
    "pretrained": {"model"},
    "extraction": {"data", "backbones"},
    "indexing": {"data"},
    "grounding": {
        "data",
        "demo",
        "backbones",
        "model",
        "kernels",
        "extraction",
        "indexing",
        "pretrained",
    },
    "serving": {"data", "grounding"},
    "sources": {"data", "backbones", "demo", "extraction"},
    "evaluation": {"data", "model", "grounding", "sources", "pretrained"},
    "training": {
        "data",
        "model",
        "kernels",
        "grounding",
        "sources",
        "evaluation",
        "pretrained",
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


def test_every_package_has_its_place() -> None:
    packages = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()}
    assert packages == set(BELOW) | BASICS
