"""`python -m benchmarks.kernels`: registers and shared memory of every kernel, and what ran where.

Two tables in Markdown. The first comes from the committed budgets of the Triton kernels and from
compiling the CUDA sources, where PyTorch's wheels bring the compiler (NVRTC); the second from the
ops' registry and from what the tests execute, so that nobody takes a kernel that only compiles for
one that was measured.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from sdst.errors import InputError, run
from sdst.kernels import dispatch, nvrtc
from sdst.kernels.installation import typical_call
from sdst.kernels.registry import H100, OPS

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# Where the tests of implementations that others wrote ran last.
LIBRARIES = {"flash": H100, "xformers": "NVIDIA H200 on 2026-11-26 (torch 2.11)"}

Usage = dict[str, int]  # registers and bytes of stack a thread, bytes of shared memory a block


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see `python -m benchmarks.kernels --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the tables there")
    output = parser.parse_args(arguments).output
    text = usage_table() + "\n" + evidence_table()
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error}") from error


def usage_table() -> str:
    """Registers, stack (spills are 0 where it is) and shared memory of every kernel."""
    head = ["kernel", "store", *ARCHITECTURES]
    rows = [*_triton_rows()]
    missing = nvrtc.missing_reason()
    if missing is None:
        rows += _cuda_rows()
    note = (
        "Registers a thread / bytes of stack and spills a thread / bytes of shared memory (of a "
        "CUDA kernel without what its launch adds).\n"
    )
    note += f"The CUDA sources are missing: {missing}.\n" if missing else ""
    return note + "\n" + _markdown(head, rows)


def evidence_table() -> str:
    """Which implementation of which op ran where."""
    rows = [[op, name, evidence(op, name)] for op, name in implementations()]
    return _markdown(["op", "implementation", "where it ran"], rows)


def implementations() -> Iterator[tuple[str, str]]:
    """Every op with each of its implementations, and the CUDA sources that serve others."""
    for name, op in OPS.items():
        yield from ((name, implementation) for implementation in op.implementations)
        if name in nvrtc.sources() and "cuda" not in op.implementations:
            yield name, "cuda"


def evidence(op: str, implementation: str) -> str:
    """The best proof there is here that an implementation works."""
    registered = implementation in OPS[op].implementations
    reasons = dispatch.unsupported_reasons(op, implementation, *typical_call(op))
    if registered and not reasons:
        return f"executed on {torch.cuda.get_device_name() if torch.cuda.is_available() else 'CPU'}"
    if implementation in LIBRARIES:
        return f"executed on an {LIBRARIES[implementation]}"
    here = {"triton": "in Triton's interpreter", "cuda": "on CPU through the shim"}
    if implementation not in here:
        return "nowhere: " + "; ".join(reasons)
    here = f"{here[implementation]}, compiled for GPUs"
    if gpu := OPS[op].ran_on.get(implementation):
        return f"executed on an {gpu}; here {here}"
    return f"executed {here}; not yet on a GPU"


def budgets() -> dict[str, dict]:
    """The committed usage of the Triton kernels: op, launch, architecture, dtype, kernel."""
    files = {op: ROOT / "kernels" / op / "budgets.json" for op in OPS}
    return {
        op: json.loads(file.read_text())["usage"] for op, file in files.items() if file.exists()
    }


def cuda_usage(source: str, architecture: int) -> dict[str, Usage]:
    """Resources that the kernels of csrc/cuda/<source>.cu use, by name.

    Raises:
        CompileError: NVRTC does not compile it.
        FileNotFoundError: there is no Triton, whose wheel brings the tool that reads cubins.
    """
    usage = read_cubin(nvrtc.compile_source(source, architecture), "--dump-resource-usage")
    kernels = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", usage)
    return {
        name: {"registers": int(registers), "stack": int(stack), "shared memory": int(shared)}
        for name, registers, stack, shared in kernels
    }


def read_cubin(cubin: bytes, option: str) -> str:
    """Output of the `cuobjdump` of Triton's wheel for a cubin."""
    found = find_spec("triton")
    if found is None or found.origin is None:
        raise FileNotFoundError("cuobjdump comes with Triton, which is not installed")
    tool = Path(found.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [str(tool), option, str(file)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _triton_rows() -> Iterator[list[str]]:
    for op, launches in budgets().items():
        for launch, by_architecture in launches.items():
            for dtype, kernels in by_architecture[ARCHITECTURES[0]].items():
                for kernel in kernels:
                    used = [by_architecture[name][dtype][kernel] for name in ARCHITECTURES]
                    yield [f"{op}, {launch}: `{kernel}`", dtype, *map(_cell, used)]


def _cuda_rows() -> Iterator[list[str]]:
    for source in nvrtc.sources():
        used = [cuda_usage(source, int(name.removeprefix("sm_"))) for name in ARCHITECTURES]
        for kernel in used[0]:
            yield [f"{source}: `{kernel}` (CUDA)", "", *(_cell(x[kernel]) for x in used)]


def _cell(used: Usage) -> str:
    return f"{used['registers']} / {used['stack']} / {used['shared memory']:,}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    run(main)
