"""The tables of kernels: nothing is missing, and what we wrote ran somewhere."""

from __future__ import annotations

import re

import pytest

from benchmarks import kernels
from sdst.kernels.registry import OPS


def test_every_implementation_of_every_op_is_in_the_table() -> None:
    table = kernels.evidence_table()
    for op in OPS.values():
        for name in op.implementations:
            assert f"| {op.name} | {name} |" in table
    for source in kernels.cuda_sources():
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


def test_a_kernels_usage_is_read_from_what_ptxas_tells() -> None:
    told = """ '_ZN4sdst12_GLOBAL__N_16finishEPKl' for 'sm_90'
    8 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads
    ptxas info : Used 48 registers, used 1 barriers, 1040 bytes smem"""
    assert kernels._name(told) == "finish"
    assert kernels._usage(told) == {"registers": 48, "stack": 16, "shared memory": 1040}
