"""The tables of kernels: nothing is missing, and what we wrote ran somewhere."""

from __future__ import annotations

import re

import pytest

from benchmarks import kernels
from sdst.kernels import nvrtc
from sdst.kernels.registry import OPS


def test_every_implementation_of_every_op_is_in_the_table() -> None:
    table = kernels.evidence_table()
    for op in OPS.values():
        for name in op.implementations:
            assert f"| {op.name} | {name} |" in table
    for source in nvrtc.sources():
        assert f"| {source} | cuda |" in table


@pytest.mark.parametrize(("op", "name"), list(kernels.implementations()))
def test_an_implementation_of_ours_ran_somewhere(op: str, name: str) -> None:
    if name not in kernels.LIBRARIES:
        assert kernels.evidence(op, name).startswith("executed")


def test_every_triton_kernel_is_in_the_table() -> None:
    """A row is `op: kernel`: no op lacks the budget of one of its kernels."""
    table = "\n".join(" ".join(row) for row in kernels._triton_rows())
    for file in (kernels.ROOT / "kernels").glob("*/triton.py"):
        for kernel in re.findall(r"@triton\.jit\ndef (\w+_kernel)\(", file.read_text()):
            assert re.search(rf"^{file.parent.name}\b.*`{kernel}`", table, re.MULTILINE)
