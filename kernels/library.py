"""The native libraries of csrc/: found beside this file, loaded once, checked before use.

A library that is missing or does not fit is no error until something needs it; then the reason is
told. Importing `sdst.kernels` always works, and the reference implementations with it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from sdst.kernels import dispatch

ABI_VERSION = 9  # SDST_ABI_VERSION of csrc/include/sdst.h
FOLDER = Path(__file__).parent
NAMES = ("cpu", "cuda")

# Number types of a token store, as csrc/include/tokens.h numbers them; the last needs scales.
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}

# Kinds of arguments by their letter in a signature.
KINDS = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float}
SIGNATURES: dict[str, str] = {}  # of the functions of the C++ library that wrappers have declared
CUDA_SIGNATURES = {
    "sdst_linear_assignment": "ppp" + "nnn" + "p",
    "sdst_select_tokens": "pppppppp" + "nnnnnnn" + "p",
    "sdst_temporal_nms": "pppppp" + "nnn" + "fff" + "p",
}
_NOT_BUILT = {
    "cpu": "SDST_CPU=0; install sdst again without it",
    "cuda": "no nvcc, a failing one, or SDST_CUDA=0; SDST_CUDA=1 at installation reports which",
}


class LibraryError(RuntimeError):
    """A native library cannot be used; the message says why and what to do."""


def path(name: str) -> Path:
    """Where the library `name`, one of NAMES, is expected."""
    return FOLDER / f"libsdst_{name}.so"


@cache
def load(name: str) -> ctypes.CDLL:
    """The library `name`, one of NAMES. Raises LibraryError if it cannot be used."""
    reason = missing_reason(name)
    if reason is not None:
        raise LibraryError(reason)
    native = ctypes.CDLL(str(path(name)))
    if name == "cuda":
        for exported, signature in CUDA_SIGNATURES.items():
            getattr(native, exported).argtypes = [KINDS[kind] for kind in signature]
            getattr(native, exported).restype = ctypes.c_int32
    else:
        native.sdst_use_openmp(openmp())
    return native


def function(name: str, signature: str) -> Callable[..., None]:
    """The function `name` that the C++ library exports, looked up when it is first called.

    Args:
        signature: a letter for every argument: p a pointer, n an int64, i an int32, f a float.
    """
    SIGNATURES[name] = signature

    @cache
    def exported() -> Callable[..., None]:
        found = getattr(load("cpu"), name)
        found.argtypes, found.restype = [KINDS[kind] for kind in signature], None
        return found

    return lambda *arguments: exported()(*arguments)


def openmp() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP runtime that PyTorch itself computes with, if it has one."""
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        with suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p)
    return None


def launch(function: str, device: torch.device, *arguments: int | float | None) -> None:
    """Start `function` of the CUDA library on the current stream of `device`, without waiting."""
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        code = getattr(load("cuda"), function)(*arguments, stream)
    if code != 0:
        raise RuntimeError(f"{function}: the CUDA kernel did not start (error {code})")


def pointers(*tensors: Tensor | None) -> tuple[int | None, ...]:
    """Where the tensors' data lie; they must be kept alive until the call returns."""
    return tuple(None if tensor is None else tensor.data_ptr() for tensor in tensors)


def prepare_samples(tokens: Tensor) -> tuple[Tensor, int]:
    """Tokens [B, ...] as the kernels read them: every sample contiguous, and how many numbers the
    next one lies behind it. Expanded samples stay one, 0 apart."""
    tokens = tokens if tokens[:1].is_contiguous() else tokens.contiguous()
    return tokens, tokens.stride(0)


@overload
def prepare_lengths(lengths: Tensor) -> Tensor: ...


@overload
def prepare_lengths(lengths: None) -> None: ...


def prepare_lengths(lengths: Tensor | None) -> Tensor | None:
    """Lengths as the kernels read them."""
    return None if lengths is None else lengths.to(torch.int64).contiguous()


def prepare_scales(scales: Tensor | None) -> Tensor | None:
    """Scales of an int8 store as the kernels read them."""
    return None if scales is None else scales.float().contiguous()


def unsupported_reasons(**tensors: Tensor) -> list[str]:
    """Why the C++ kernels cannot serve these tensors, named as the caller knows them."""
    reasons = []
    for name, tensor in tensors.items():
        if tensor.device.type != "cpu":
            reasons.append(f"{name} is on {tensor.device.type}, only cpu is offered")
        if tensor.dtype not in TYPES or (tensor.dtype == torch.int8 and name != "tokens"):
            reasons.append(f"{name} is {tensor.dtype}, only fp32, bf16 and fp16 are offered")
    missing = missing_reason("cpu")
    return reasons if missing is None else [*reasons, missing]


@dispatch.constant
def multiplies_bf16() -> bool:
    """Whether the library `cpu` can be used and the processor multiplies bf16 (AVX512_BF16)."""
    return missing_reason("cpu") is None and bool(load("cpu").sdst_multiplies_bf16())


@dispatch.constant
def missing_reason(name: str) -> str | None:
    """Why the library `name` cannot be used, None if it can."""
    return _inspect(name)


@cache
def _inspect(name: str) -> str | None:
    file = path(name)
    if not file.exists():
        return f"{file.name} was not built ({_NOT_BUILT[name]})"
    try:
        native = ctypes.CDLL(str(file))
        version = native.sdst_abi_version()
    except (OSError, AttributeError) as error:
        return f"{file.name} cannot be loaded: {error}"
    if version != ABI_VERSION:
        return (
            f"{file.name} has ABI version {version}, this Python code expects {ABI_VERSION}; "
            "run `pip install -e .` again"
        )
    lacking = [x for x in SIGNATURES if name == "cpu" and not hasattr(native, x)]
    if lacking:
        return f"{file.name} lacks {', '.join(lacking)}; run `pip install -e .` again"
    return None
