"""Every CUDA source compiles by NVRTC for every architecture, without spilling a register, and its
kernels take what their wrappers pack."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch

from benchmarks.kernels import Usage, cuda_usage, read_cubin
from sdst.kernels import cuda_kernels, nvrtc
from sdst.kernels.linear_assignment import cuda as linear_assignment
from sdst.kernels.select_tokens import cuda as select_tokens
from sdst.kernels.temporal_nms import cuda as temporal_nms
from tests.kernels.warp_shim import kernels_of

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
MOST_REGISTERS = 64  # a thread
pytestmark = [
    pytest.mark.skipif(nvrtc.missing_reason() is not None, reason=str(nvrtc.missing_reason())),
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton brings what reads a cubin"),
]


def used_by(source: str, architecture: int) -> dict[str, Usage]:
    if architecture not in nvrtc.architectures():
        pytest.skip(f"NVRTC {nvrtc.version()} does not know sm_{architecture}")
    return cuda_usage(source, architecture)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", nvrtc.sources())
def test_no_kernel_spills(source: str, architecture: int) -> None:
    used = used_by(source, architecture)
    assert sorted(used) == sorted(kernels_of(source))
    for usage in used.values():
        assert usage["stack"] == 0
        assert usage["registers"] <= MOST_REGISTERS


def parameters(source: str) -> dict[str, list[int]]:
    """Bytes of every parameter of a source's kernels, as the compiled ones say."""
    listing = read_cubin(nvrtc.compile_source(source, 90), "-elf")
    found = {}
    for name, section in re.findall(r"^\.nv\.info\.(\w+)\n(.*?)(?=^\.\w|\Z)", listing, re.M | re.S):
        pairs = re.findall(r"Ordinal : (0x\w+).*?Size\s+: (0x\w+)", section)
        found[name] = [int(size, 16) for _, size in sorted((int(n, 16), s) for n, s in pairs)]
    return found


def test_wrappers_pack_arguments_of_the_sizes_that_the_kernels_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed: dict[tuple[str, str], list[int]] = {}

    def launch(
        kernel: cuda_kernels.Kernel,
        device: torch.device,
        blocks: int,
        threads: int,
        *arguments: cuda_kernels.Argument,
        shared: int = 0,
    ) -> None:
        assert blocks > 0 and threads in (cuda_kernels.WARP, select_tokens.THREADS)
        values = cuda_kernels.pack(arguments).values
        packed[kernel.source, kernel.name] = [len(bytes(value)) for value in values]

    monkeypatch.setattr(cuda_kernels.Kernel, "launch", launch)
    linear_assignment.linear_assignment(torch.zeros(2, 3, 2), torch.tensor([2, 1]))
    select_tokens.select(torch.zeros(2, 4, 1), 3, None, (1, 2), 2)
    temporal_nms.temporal_nms(torch.zeros(2, 4, 2), torch.zeros(2, 4), None, "hard", 0.5, 0.5, 0.0)
    for source in nvrtc.sources():
        sizes = parameters(source)
        assert sizes.keys() == set(kernels_of(source))
        for name, expected in sizes.items():
            assert packed[source, name] == expected
