"""The CUDA source of linear assignment, executed on the CPU: a thread per lane of the warp."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from sdst.kernels import linear_assignment

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "csrc" / "cuda" / "linear_assignment.cu"


def on_the_cpu(source: str) -> str:
    """The same source with the two things that no C++ compiler reads put in words it does."""
    source = source.replace("#include <cuda_runtime.h>", '#include "warp_shim.h"')
    source = source.replace(
        "extern __shared__ double memory[];", "double* memory = shim::shared.data();"
    )
    launch = r"sdst::assign<<<(.+?), sdst::kWarp, (.+?),\s*static_cast<cudaStream_t>\(stream\)>>>\("
    source, count = re.subn(launch, r"shim::launch(sdst::assign, \1, \2, ", source, flags=re.S)
    assert count == 1
    return source.replace("static_cast<int32_t>(cudaGetLastError())", "0")


@pytest.fixture(scope="module", params=["plain", "undefined behaviour checked"])
def assign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "kernel.cpp").write_text(on_the_cpu(SOURCE.read_text()))
    library = folder / "kernel.so"
    checks = [] if request.param == "plain" else ["-fsanitize=undefined", "-fno-sanitize-recover"]
    includes = [f"-I{ROOT / 'csrc' / 'include'}", f"-I{Path(__file__).parent}"]
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", *checks, *includes]
    command = ["c++", *flags, str(folder / "kernel.cpp"), "-o", str(library)]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).sdst_linear_assignment
    function.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

    def call(cost: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        batch, rows, columns = cost.shape
        out = torch.empty(batch, columns, dtype=torch.int64)
        pointers = (x.data_ptr() for x in (cost, sizes, out))
        assert function(*pointers, batch, rows, columns, None) == 0
        return out

    return call


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 5), (10, 4), (40, 33)])
def test_it_costs_what_scipys_answer_costs(assign, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    cost = torch.randn(4, rows, columns, generator=generator)
    sizes = torch.randint(0, columns + 1, (4,), generator=generator)
    found, expected = assign(cost, sizes), linear_assignment(cost, sizes)
    for problem, size in enumerate(sizes.tolist()):
        valid = range(size)
        mine, best = found[problem, :size], expected[problem, :size]
        assert len(set(mine.tolist())) == size
        assert cost[problem, mine, valid].sum() == pytest.approx(
            cost[problem, best, valid].sum().item(), abs=1e-5
        )
        assert (found[problem, size:] == -1).all()


def test_of_equal_costs_the_lower_rows_win(assign) -> None:
    assert assign(torch.zeros(1, 6, 3), torch.tensor([3])).sort().values.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_problem_without_finite_costs_gets_minus_one(assign, value: float) -> None:
    cost = torch.full((1, 3, 2), value)
    assert assign(cost, torch.tensor([2])).tolist() == [[-1, -1]]
