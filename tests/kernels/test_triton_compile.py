"""Every committed launch configuration compiles for every architecture, within its budget.

No GPU is needed: the ops' own launchers run on tensors without data under a driver that only names
an architecture, and what they would start is compiled instead. The budgets are what this file,
run as a program, wrote to triton_budgets.json.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("interpreted kernels are not compiled", allow_module_level=True)

from triton.backends.compiler import GPUTarget  # noqa: E402

from sdst.kernels import triton_support  # noqa: E402
from sdst.kernels.deformable_attention import triton as deformable  # noqa: E402
from sdst.kernels.gathered_attention import triton as gathered  # noqa: E402
from sdst.kernels.mark_saliency import WIDEST  # noqa: E402
from sdst.kernels.mark_saliency import triton as marking  # noqa: E402
from sdst.kernels.pool_tokens import triton as pooling  # noqa: E402
from sdst.kernels.select_tokens import triton as selection  # noqa: E402

BUDGETS = Path(__file__).with_name("triton_budgets.json")
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}  # bytes a program may take
# fp16 differs from bf16 in its conversions only.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def sample(dtype: torch.dtype, queries: int, heads: int, channels: int, samples: int) -> None:
    """Deformable attention at QVHighlights' B=32, L=75."""
    value = empty(32, 75, heads, channels, dtype=dtype)
    references = empty(32, queries, 2, dtype=dtype)
    offsets = empty(32, queries, heads, samples, dtype=dtype)
    inputs = (value, references, offsets, offsets, empty(32, dtype=torch.int64))
    deformable.backward(deformable.forward(*inputs), *inputs)


def store(dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Tokens and, of int8, their scales at the patch-token shape."""
    scales = empty(8, 75, 50, dtype=torch.float32) if dtype == torch.int8 else None
    return empty(8, 75, 50, 768, dtype=dtype), scales


def attend(dtype: torch.dtype, stored: torch.dtype) -> None:
    """Gathered attention at the patch-token shape."""
    query, (tokens, scales) = empty(8, 10, 8, 768, dtype=dtype), store(stored)
    indices, valid = empty(8, 64, dtype=torch.int64), empty(8, 64, dtype=torch.bool)
    bias, lengths = empty(8, 64, dtype=dtype), empty(8, dtype=torch.int64)
    keys = (query, tokens, indices, bias, valid, lengths, (1, 2, 4, 8), 0.125, scales)
    gathered.backward(gathered.forward(*keys), *keys)


def select(dtype: torch.dtype, stored: torch.dtype) -> None:
    """The kernels of token selection at the patch-token shape."""
    u, (tokens, scales) = empty(8, 768, dtype=dtype), store(stored)
    indices, valid = empty(8, 64, dtype=torch.int64), empty(8, 64, dtype=torch.bool)
    lengths, grad = empty(8, dtype=torch.int64), empty(8, 64, dtype=torch.float32)
    selection.token_scores(tokens, u, lengths, scales)
    selection.backward(grad, tokens, indices, valid, lengths, (1, 2, 4, 8), scales)


def pool(stored: torch.dtype) -> None:
    """Token pooling at the patch-token shape."""
    u, (tokens, scales) = empty(8, 768, dtype=torch.float32), store(stored)
    call = (tokens, u, 8, empty(8, dtype=torch.int64), scales)
    pooling.backward(pooling.forward(*call), *call)


def mark(dtype: torch.dtype, batch: int, clips: int, width: int) -> None:
    """Marking by saliency."""
    dense, sentence = empty(batch, clips, width, dtype=dtype), empty(batch, width, dtype=dtype)
    direction, lengths = empty(width, dtype=torch.float32), empty(batch, dtype=torch.int64)
    marking.backward(*marking.forward(dense, sentence, direction, lengths))


CALLS: dict[str, Callable[[torch.dtype], None]] = {
    "deformable_attention, sampling": lambda dtype: sample(dtype, 10, 8, 32, 4),
    "deformable_attention, ends and center": lambda dtype: sample(dtype, 30, 1, 256, 1),
    "gathered_attention": lambda dtype: attend(dtype, dtype),
    "gathered_attention, int8 store": lambda dtype: attend(dtype, torch.int8),
    "select_tokens": lambda dtype: select(dtype, dtype),
    "select_tokens, int8 store": lambda dtype: select(dtype, torch.int8),
    "pool_tokens": pool,
    "pool_tokens, int8 store": lambda dtype: pool(torch.int8),
    "mark_saliency": lambda dtype: mark(dtype, 32, 75, 256),
    "mark_saliency, long video": lambda dtype: mark(dtype, 1, 4800, 256),
    "mark_saliency, widest": lambda dtype: mark(dtype, 32, 75, WIDEST),
}


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
    """What is launched in this context is compiled, and found by the kernel's name."""
    kernels: dict[str, object] = {}

    def launch(kernel, grid: tuple[int, ...], *args: object, **constants: object) -> None:
        kernels[kernel.__name__] = kernel.run(*args, grid=grid, warmup=True, **constants)

    config, started = triton.runtime.driver, triton_support.launch
    driver = config._active
    config.set_active(Driver(architecture))
    triton_support.launch = launch
    try:
        yield kernels
    finally:
        triton_support.launch = started
        config._active = driver


def usage(kernel: object, folder: Path) -> dict[str, int]:
    """Registers a thread, bytes of stack a thread (spills), shared memory a program."""
    binary = folder / "kernel.cubin"
    binary.write_bytes(kernel.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(binary)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", told).groups()
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared memory": kernel.metadata.shared,
    }


def measure(call: str, architecture: int, dtype: str, folder: Path) -> dict[str, dict[str, int]]:
    """Usage of every kernel that `call` starts."""
    with compiling_for(architecture) as kernels:
        CALLS[call](DTYPES[dtype])
    return {name: usage(kernel, folder) for name, kernel in kernels.items()}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", SHARED_MEMORY)
@pytest.mark.parametrize("call", CALLS)
def test_kernels_stay_within_their_budget(
    call: str, architecture: int, dtype: str, tmp_path: Path
) -> None:
    budgets = json.loads(BUDGETS.read_text())
    found = measure(call, architecture, dtype, tmp_path)
    assert found.keys() == budgets["usage"][call][f"sm_{architecture}"][dtype].keys()
    for name, used in found.items():
        assert used["stack"] == 0, f"{name} spills"
        assert used["shared memory"] <= SHARED_MEMORY[architecture]
        if triton.__version__ == budgets["triton"]:  # another compiler may allocate otherwise
            budget = budgets["usage"][call][f"sm_{architecture}"][dtype][name]
            assert all(used[what] <= budget[what] for what in budget), (name, used, budget)


@triton.jit
def hoarding_kernel(p_x, BLOCK: triton.language.constexpr):
    """Needs all of x at once, twice."""
    p_all = p_x + triton.language.arange(0, BLOCK)
    x = triton.language.load(p_all)
    triton.language.store(p_all, x - triton.language.sum(x))


def test_a_spill_would_be_seen(tmp_path: Path) -> None:
    with compiling_for(90) as kernels:
        triton_support.launch(
            hoarding_kernel, (1,), empty(dtype=torch.float32), BLOCK=16384, num_warps=1
        )
    assert usage(kernels["hoarding_kernel"], tmp_path)["stack"] > 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        table = {
            call: {
                f"sm_{architecture}": {
                    dtype: measure(call, architecture, dtype, Path(folder)) for dtype in DTYPES
                }
                for architecture in SHARED_MEMORY
            }
            for call in CALLS
        }
    BUDGETS.write_text(json.dumps({"triton": triton.__version__, "usage": table}, indent=1) + "\n")
