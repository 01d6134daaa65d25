"""What is installed, what was built, and what serves each op here."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import torch

from sdst.kernels import ImplementationError, dispatch, library

_PACKAGES = ("torch", "triton", "flash-attn", "xformers", "open_clip_torch", "av")


def packages() -> dict[str, str]:
    """Installed version of everything that decides what runs here."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices() -> dict[str, str]:
    """The processor and every CUDA device."""
    bf16 = ", products of bf16" if library.multiplies_bf16() else ""
    rows = {"cpu": f"{torch.get_num_threads()} threads, {platform.machine()}{bf16}"}
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        rows[f"cuda:{index}"] = f"{found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB"
    return rows


def libraries() -> dict[str, str]:
    """Where each native library is and how large, or why there is none."""
    rows = {}
    for name in library.NAMES:
        file, reason = library.path(name), library.missing_reason(name)
        size = f"{file}, {file.stat().st_size / 1024:.0f} KiB" if file.exists() else ""
        rows[name] = reason or f"{size}, ABI {library.ABI_VERSION}"
    return rows


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
    for name in dispatch.implementations(op):
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
    """Arguments that `dispatch.choose` sees when the model calls `op`."""
    cuda = torch.cuda.is_available()
    options = {"device": "cuda", "dtype": torch.bfloat16} if cuda else {"dtype": torch.float32}
    x = torch.zeros(1, 4, 2, 8, **options)
    lengths = torch.tensor([4], device=x.device)
    return {
        "deformable_attention": (x, x[..., 0], x, x, lengths),
        "dense_attention": (x, x, x, lengths, lengths, 0.0, None, 0),
        "dropout": (x,),
        "select_tokens": (x, x[:, 0, 0]),
        "pool_tokens": (x, x[:, 0, 0]),
        "gathered_attention": (x, x, lengths[None], x[:, :1, 0, 0], lengths[None] > 0),
        "mark_saliency": (x[:, :, 0], x[:, 0, 0], x[0, 0, 0], lengths),
        "linear_assignment": (x[:, :, :, 0].float(), lengths),
        "row_program": (x,),
        "temporal_nms": (x[:, :, 0, :2], x[:, :, 0, 0], lengths),
    }[op]
