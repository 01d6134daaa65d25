"""Devices, native code, and the implementation that serves each op here."""

from __future__ import annotations

import platform
from contextlib import suppress

import torch

from sdst.kernels import ImplementationError, cuda_kernels, dispatch, library, nvrtc
from sdst.kernels.examples import Make
from sdst.kernels.registry import OPS


def devices() -> dict[str, str]:
    """The processor and every CUDA device."""
    bf16 = ", bf16 matrix multiplies" if library.multiplies_bf16() else ""
    rows = {"cpu": f"{torch.get_num_threads()} threads, {platform.machine()}{bf16}"}
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        rows[f"cuda:{index}"] = f"{found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB"
    return rows


def native_code() -> dict[str, str]:
    """The C++ library and the CUDA sources: where they are and whether they serve."""
    file, reason = library.path(), library.missing_reason()
    size = f"{file}, {file.stat().st_size / 1024:.0f} KiB" if file.exists() else ""
    rows = {"C++": reason or f"{size}, ABI {library.ABI_VERSION}"}
    if reason := nvrtc.missing_reason():
        return rows | {"NVRTC": reason}
    rows["NVRTC"] = ".".join(map(str, nvrtc.version()))
    targets = {cuda_kernels.architecture(i) for i in range(torch.cuda.device_count())}
    for source in nvrtc.sources():
        states = (
            f"sm_{target} {'compiled' if nvrtc.is_cached(source, target) else 'not yet compiled'}"
            for target in sorted(targets)
        )
        rows[f"{source}.cu"] = ", ".join(states) or "compiled when a CUDA device needs it"
    return rows


def op_choices() -> dict[str, dict[str, str]]:
    """`op_choice` of every op.

    Raises:
        ImplementationError: as `op_choice`.
    """
    return {op: op_choice(op) for op in OPS}


def op_choice(op: str) -> dict[str, str]:
    """For a typical call on the best device here: what serves it, and why the others do not.

    Raises:
        ImplementationError: no op has the implementation that is requested of all.
    """
    call, requested = typical_call(op), dispatch.requested(op)
    chosen = None
    with suppress(ImplementationError):  # the requested one does not fit, which its row explains
        chosen = dispatch.choose(op, "auto", *call)
    rows = {}
    for name in OPS[op].implementations:
        reasons = "; ".join(dispatch.unsupported_reasons(op, name, *call))
        if name == chosen:
            rows[name] = "taken"
        elif name == requested:
            rows[name] = f"requested, does not fit: {reasons}"
        else:
            rows[name] = (
                reasons or f"fits, not {'preferred' if requested == 'auto' else 'requested'}"
            )
    return rows


def typical_call(op: str) -> tuple:
    """Arguments that `dispatch.choose` sees of the example call of `op` on the best device here."""
    entry = OPS[op]
    best = Make("cuda", torch.bfloat16) if torch.cuda.is_available() else Make()
    call = entry.example(best)
    return tuple(call[name] for name in entry.asked)
