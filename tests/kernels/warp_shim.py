"""CUDA kernels executed on the CPU: the very source, compiled by a C++ compiler over warp_shim.h.

What launches a kernel is the op's own wrapper, with `Kernel.launch` replaced by this module's: the
grid, the block and the packed arguments are those that a GPU gets.

Checked by the sanitizers it runs in a process of its own, as they must be loaded before Python is;
there `python warp_shim.py LIBRARY KERNEL` is that process.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

HERE = Path(__file__).parent
CSRC = HERE.parents[1] / "csrc"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"]
KERNEL = r'extern "C" __global__ void __launch_bounds__\(.*?\)\s+(\w+)\('

# A launch's arguments for another process: an array whose data a kernel takes, or a value's bytes.
Raw = np.ndarray | bytes


def kernels_of(op: str) -> list[str]:
    """Names of the kernels of csrc/cuda/<op>.cu."""
    return re.findall(KERNEL, (CSRC / "cuda" / f"{op}.cu").read_text())


def on_the_cpu(op: str) -> str:
    """The same source with what no C++ compiler reads put in words that it does, and a function
    for every kernel that launches it."""
    source = (CSRC / "cuda" / f"{op}.cu").read_text()
    source = source.replace("#include <cuda_runtime.h>", '#include "warp_shim.h"')
    source = source.replace(
        "extern __shared__ double memory[];", "double* memory = shim::shared.data();"
    )
    return source + "".join(f"SHIM_LAUNCHER({kernel})\n" for kernel in kernels_of(op))


def build(op: str, folder: Path, sanitized: bool) -> Path:
    """Compile csrc/cuda/<op>.cu for the CPU, in `folder`."""
    source, library = folder / f"{op}.cpp", folder / f"{op}.so"
    source.write_text(on_the_cpu(op))
    flags = ["-std=c++20", "-O1", "-shared", "-fPIC", "-pthread", *(SANITIZERS * sanitized)]
    includes = [f"-I{CSRC / 'include'}", f"-I{HERE}"]
    subprocess.run(["c++", *flags, *includes, str(source), "-o", str(library)], check=True)
    return library


@contextmanager
def shimmed(op: str, folder: Path, sanitized: bool) -> Iterator[None]:
    """In this context the kernels of `op` run on the CPU, and fresh tensors are full of garbage."""
    import pytest
    import torch
    from torch import Tensor

    from sdst.kernels.cuda_kernels import Argument, Kernel, pack

    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    library = build(op, folder, sanitized)
    start: Callable = start_in_a_checked_process if sanitized else start_here

    def launch(
        kernel: Kernel,
        device: torch.device,
        blocks: int,
        threads: int,
        *arguments: Argument,
        shared: int = 0,
    ) -> None:
        values = pack(arguments).values
        raw = [
            x.numpy() if isinstance(x, Tensor) else bytes(value)
            for x, value in zip(arguments, values, strict=True)
        ]
        start(str(library), kernel.name, (blocks, threads, shared), raw)

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with patch.object(Kernel, "launch", launch):
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def start_here(library: str, kernel: str, sizes: tuple[int, ...], arguments: list[Raw]) -> None:
    """Launch a kernel of `library`; what it writes lands in the arrays among `arguments`."""
    values = [
        ctypes.c_void_p(x.ctypes.data)
        if isinstance(x, np.ndarray)
        else ctypes.create_string_buffer(x, len(x))
        for x in arguments
    ]
    addresses = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
    blocks, threads, shared = sizes
    getattr(ctypes.CDLL(library), f"launch_{kernel}")(
        blocks, threads, ctypes.c_size_t(shared), addresses
    )


def start_in_a_checked_process(
    library: str, kernel: str, sizes: tuple[int, ...], arguments: list[Raw]
) -> None:
    """`start_here` under the address and undefined behaviour sanitizers; fails if they report."""
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
        [sys.executable, __file__, library, kernel],
        input=pickle.dumps((sizes, arguments)),
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    for mine, theirs in zip(arguments, pickle.loads(done.stdout), strict=True):
        if isinstance(mine, np.ndarray):
            mine[...] = theirs


if __name__ == "__main__":
    sizes, given = pickle.load(sys.stdin.buffer)
    start_here(sys.argv[1], sys.argv[2], sizes, given)
    sys.stdout.buffer.write(pickle.dumps(given))
