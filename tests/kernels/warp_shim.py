"""CUDA sources executed on the CPU: the very source, compiled by a C++ compiler over warp_shim.h.

Checked by the sanitizers it runs in a process of its own, as they must be loaded before Python is;
there `python warp_shim.py LIBRARY FUNCTION` is that process.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]

# Arguments are arrays (passed by pointer, and written to), int (int64), float or None (a pointer).
Call = Callable[..., None]


def on_the_cpu(source: str) -> str:
    """The same source with what no C++ compiler reads put in words that it does."""
    source = source.replace("#include <cuda_runtime.h>", '#include "warp_shim.h"')
    source = source.replace(
        "extern __shared__ double memory[];", "double* memory = shim::shared.data();"
    )
    launch = (
        r"(sdst::\w+)<<<(.+?), (sdst::\w+),\s*(.+?),\s*static_cast<cudaStream_t>\(stream\)>>>\("
    )
    source, count = re.subn(launch, r"shim::launch(\1, \2, \3, \4, ", source, flags=re.S)
    assert count > 0
    return source.replace("static_cast<int32_t>(cudaGetLastError())", "0")


def build(op: str, function: str, folder: Path, sanitized: bool) -> Call:
    """Compile csrc/cuda/<op>.cu in `folder` and give its exported `function` to be called."""
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    source, library = folder / f"{op}.cpp", folder / f"{op}.so"
    source.write_text(on_the_cpu((CSRC / "cuda" / f"{op}.cu").read_text()))
    flags = [
        "-std=c++20",
        "-O1",
        "-shared",
        "-fPIC",
        "-pthread",
        *(SANITIZERS if sanitized else []),
    ]
    includes = [f"-I{CSRC / 'include'}", f"-I{HERE}"]
    subprocess.run(["c++", *flags, *includes, str(source), "-o", str(library)], check=True)
    apart = call_in_a_checked_process if sanitized else call

    def run(*arguments: object) -> None:
        apart(str(library), function, *arguments)

    return run


def call(library: str, function: str, *arguments: object) -> None:
    """Call `function` of `library`; what it writes lands in the arrays among `arguments`."""
    passed = [
        ctypes.c_void_p(x if x is None else x.ctypes.data)
        if x is None or isinstance(x, np.ndarray)
        else ctypes.c_float(x)
        if isinstance(x, float)
        else ctypes.c_int64(x)
        for x in arguments
    ]
    assert getattr(ctypes.CDLL(library), function)(*passed) == 0


def call_in_a_checked_process(library: str, function: str, *arguments: object) -> None:
    """`call` under the address and undefined behaviour sanitizers; fails if they report."""
    runtimes = ["libasan.so", "libubsan.so"]
    found = [
        subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True)
        for name in runtimes
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(x.stdout.strip() for x in found),
        "ASAN_OPTIONS": "detect_leaks=0",
    }
    done = subprocess.run(
        [sys.executable, __file__, library, function],
        input=pickle.dumps(arguments),
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    for mine, theirs in zip(arguments, pickle.loads(done.stdout), strict=True):
        if isinstance(mine, np.ndarray):
            mine[...] = theirs


if __name__ == "__main__":
    given = pickle.load(sys.stdin.buffer)
    call(sys.argv[1], sys.argv[2], *given)
    sys.stdout.buffer.write(pickle.dumps(given))
