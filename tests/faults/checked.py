"""The C++ kernels under the address sanitizer, in a process of its own: it must be loaded before
Python is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "csrc"
FLAGS = ["-std=c++17", "-O1", "-g", "-fPIC", "-shared", "-pthread", "-Wno-psabi"]
SANITIZE = ["-fsanitize=address", "-fno-omit-frame-pointer"]


def build(folder: Path) -> Path:
    """libsdst_cpu.so with the sanitizer's checks, in `folder`."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    library = folder / "libsdst_cpu.so"
    sources = sorted(map(str, (SOURCES / "cpu").glob("*.cpp")))
    command = ["c++", *FLAGS, *SANITIZE, f"-I{SOURCES / 'include'}", *sources, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def run(folder: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m module arguments` with the library in `folder` in the place of the installed."""
    # The C++ runtime with it, or no exception of another library finds its way.
    runtimes = [
        subprocess.run(
            ["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "SDST_TEST_LIBRARY": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
