"""The documentation's table of kernels holds what `sdst.kernels` offers."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sdst import kernels
from sdst.kernels.registry import OPS

PAGE = Path(__file__).parents[2] / "docs" / "kernels" / "index.md"


def ops_of_the_page() -> set[str]:
    """The names in the first column of the table of ops."""
    cells = re.findall(r"^\| (\[`.*?) \|", PAGE.read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def test_every_op_of_the_page_can_be_imported() -> None:
    named = ops_of_the_page()
    assert named
    assert named <= set(kernels.__all__)
    assert all(hasattr(kernels, name) for name in kernels.__all__)


def test_every_op_is_on_the_page() -> None:
    assert OPS.keys() <= ops_of_the_page()


def test_a_row_program_is_written_with_what_is_exported() -> None:
    rows = kernels.row_program
    x = rows.read("x", 4)
    program = rows.RowProgram(y=rows.linear(x, torch.eye(4), torch.ones(4)))
    x = torch.randn(2, 3, 4)
    [y] = program.run(2, 3, x=x)
    torch.testing.assert_close(y, x + 1)
