"""Every CUDA source compiles for every architecture without spilling a register."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[2] / "csrc"
SOURCES = sorted(p.stem for p in (CSRC / "cuda").glob("*.cu") if "__global__" in p.read_text())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc on PATH")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("op", SOURCES)
def test_no_kernel_spills(op: str, architecture: str, tmp_path: Path) -> None:
    target = ["-cubin", f"-arch={architecture}", "-o", str(tmp_path / "kernel.cubin")]
    options = ["-std=c++17", "-O3", "-Xptxas", "-v", "-Werror", "all-warnings"]
    source = CSRC / "cuda" / f"{op}.cu"
    command = ["nvcc", *options, *target, f"-I{CSRC / 'include'}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print(re.sub(r"ptxas info\s*:\s*", "", done.stderr))  # registers and memory, shown by -s
    used = re.findall(r"(\d+) bytes (stack frame|spill stores|spill loads)", done.stderr)
    assert used
    assert all(count == "0" for count, _ in used), done.stderr
