"""Every committed launch configuration compiles for every architecture, within its budget.

No GPU is needed: the ops are called with tensors without data under a driver that only names an
architecture, and what they would start is compiled instead. `python -m
tests.kernels.test_triton_compile [OP ...]` writes the budgets, kernels/<op>/budgets.json.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from benchmarks.kernels import read_cubin  # noqa: E402
from sdst.kernels import triton_support  # noqa: E402
from sdst.kernels.examples import Make  # noqa: E402
from sdst.kernels.registry import OPS  # noqa: E402
from tests.kernels.calls import results  # noqa: E402

KERNELS = Path(__file__).parents[2] / "kernels"
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program may take
# fp16 differs from bf16 in its conversions only.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OFFERED = [name for name, op in OPS.items() if "triton" in op.implementations]
LAUNCHES = [(name, launch) for name in OFFERED for launch in OPS[name].launches]


class Driver:
    """All that compiling asks of a GPU: its architecture."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.target.arch

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling_for(architecture: int) -> Iterator[dict[str, object]]:
    """Compiled kernels by name, of those that this context launches."""
    kernels: dict[str, object] = {}
    registered = torch.library.Library("sdst", "IMPL")
    for op in OFFERED:
        module = import_module(f"sdst.kernels.{op}.triton")
        for name in (f"{op}_forward", f"{op}_backward"):
            function = getattr(module, name.removeprefix(f"{op}_"))
            registered.impl(name, function, "Meta", allow_override=True)

    def launch(kernel, grid: tuple[int, ...], *args: object, **constants: object) -> None:
        kernels[kernel.__name__] = kernel.run(*args, grid=grid, warmup=True, **constants)

    config = triton.runtime.driver
    started, reasons = triton_support.launch, triton_support.unsupported_reasons
    driver = config._active
    config.set_active(Driver(architecture))
    triton_support.launch = launch
    triton_support.unsupported_reasons = lambda **tensors: []
    try:
        yield kernels
    finally:
        triton_support.launch, triton_support.unsupported_reasons = started, reasons
        config._active = driver
        registered._destroy()


def usage(kernel: object) -> dict[str, int]:
    """Registers a thread, bytes of stack a thread (spills), shared memory a program."""
    listing = read_cubin(kernel.asm["cubin"], "--dump-resource-usage")
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", listing).groups()
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared memory": kernel.metadata.shared,
    }


def measure(op: str, launch: str, architecture: int, dtype: str) -> dict[str, dict[str, int]]:
    """Usage of every kernel that a call and its gradients start."""
    call = OPS[op].example(Make("meta", DTYPES[dtype]), **OPS[op].launches[launch])
    with compiling_for(architecture) as kernels:
        results(OPS[op], call, "triton")
    return {name: usage(kernel) for name, kernel in kernels.items()}


def budgets_of(op: str) -> Path:
    return KERNELS / op / "budgets.json"


def test_every_triton_kernel_is_launched_for_a_budget() -> None:
    for op in OFFERED:
        source = (KERNELS / op / "triton.py").read_text()
        written = set(re.findall(r"@triton\.jit\ndef (\w+_kernel)\(", source))
        launches = json.loads(budgets_of(op).read_text())["usage"]
        assert launches.keys() == OPS[op].launches.keys()
        assert written == {name for x in launches.values() for name in x["sm_80"]["fp32"]}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize(("op", "launch"), LAUNCHES)
def test_kernels_stay_within_their_budget(
    op: str, launch: str, architecture: int, dtype: str
) -> None:
    budgets = json.loads(budgets_of(op).read_text())
    committed = budgets["usage"][launch][f"sm_{architecture}"][dtype]
    found = measure(op, launch, architecture, dtype)
    assert found.keys() == committed.keys()
    for name, used in found.items():
        assert used["stack"] == 0, f"{name} spills"
        assert used["shared memory"] <= SHARED_MEMORY[architecture]
        if triton.__version__ == budgets["triton"]:  # another compiler may allocate otherwise
            budget = committed[name]
            assert all(used[what] <= budget[what] for what in budget), (name, used, budget)


@triton.jit
def hoarding_kernel(p_x, BLOCK: triton.language.constexpr):
    """Needs all of x at once, twice."""
    p_all = p_x + triton.language.arange(0, BLOCK)
    x = triton.language.load(p_all)
    triton.language.store(p_all, x - triton.language.sum(x))


def test_a_spill_would_be_seen() -> None:
    with compiling_for(90) as kernels:
        triton_support.launch(
            hoarding_kernel, (1,), Make("meta").floats(), BLOCK=16384, num_warps=1
        )
    assert usage(kernels["hoarding_kernel"])["stack"] > 0


def write_budgets(op: str) -> None:
    """Commit what the kernels of `op` use now."""
    table = {
        launch: {
            f"sm_{architecture}": {
                dtype: measure(op, launch, architecture, dtype) for dtype in DTYPES
            }
            for architecture in SHARED_MEMORY
        }
        for launch in OPS[op].launches
    }
    text = json.dumps({"triton": triton.__version__, "usage": table}, indent=1)
    budgets_of(op).write_text(text + "\n")


if __name__ == "__main__":
    for op in sys.argv[1:] or OFFERED:
        write_budgets(op)
