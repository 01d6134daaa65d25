"""The C++ library of csrc/cpu: found beside this file, loaded once, checked before use.

A missing or unfitting library is no error until something needs it; the error then has the reason.
Importing `sdst.kernels` always works, as do the reference implementations.
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
NAME = "libsdst_cpu.so"

# Dtypes of a token store, as csrc/include/tokens.h numbers them; the last needs scales.
TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.int8: 3}

# Kinds of arguments by their letter in a signature.
KINDS = {"p": ctypes.c_void_p, "n": ctypes.c_int64, "i": ctypes.c_int32, "f": ctypes.c_float}
SIGNATURES: dict[str, str] = {}  # of the functions that wrappers have declared


class LibraryError(RuntimeError):
    """The library cannot be used; the message says why and what to do."""


def path() -> Path:
    """Where the library is expected."""
    return FOLDER / NAME


@cache
def load() -> ctypes.CDLL:
    """The library. Raises LibraryError if it cannot be used."""
    reason = missing_reason()
    if reason is not None:
        raise LibraryError(reason)
    native = ctypes.CDLL(str(path()))
    native.sdst_use_openmp(openmp())
    return native


def function(name: str, signature: str) -> Callable[..., None]:
    """The function `name` that the library exports, looked up when it is first called.

    Args:
        signature: a letter for every argument: p a pointer, n an int64, i an int32, f a float.
    """
    SIGNATURES[name] = signature

    @cache
    def exported() -> Callable[..., None]:
        found = getattr(load(), name)
        found.argtypes, found.restype = [KINDS[kind] for kind in signature], None
        return found

    return lambda *arguments: exported()(*arguments)


def openmp() -> ctypes.c_void_p | None:
    """`GOMP_parallel` of the OpenMP runtime that PyTorch itself computes with, if it has one."""
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        with suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p)
    return None


def pointers(*tensors: Tensor | None) -> tuple[int | None, ...]:
    """Where the tensors' data lie; they must be kept alive until the call returns."""
    return tuple(None if tensor is None else tensor.data_ptr() for tensor in tensors)


def prepare_samples(tokens: Tensor) -> tuple[Tensor, int]:
    """Tokens [B, ...] as the kernels read them: every sample contiguous, and how many numbers the
    next one is behind it. Expanded samples stay one, 0 apart."""
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
    missing = missing_reason()
    return reasons if missing is None else [*reasons, missing]


@dispatch.constant
def multiplies_bf16() -> bool:
    """Whether the library can be used and the CPU has native bf16 (AVX512_BF16)."""
    return missing_reason() is None and bool(load().sdst_multiplies_bf16())


@dispatch.constant
def missing_reason() -> str | None:
    """Why the library cannot be used, None if it can."""
    return _inspect()


@cache
def _inspect() -> str | None:
    file = path()
    if not file.exists():
        return f"{NAME} was not built (SDST_CPU=0; install sdst again without it)"
    try:
        native = ctypes.CDLL(str(file))
        version = native.sdst_abi_version()
    except (OSError, AttributeError) as error:
        return f"{NAME} cannot be loaded: {error}"
    if version != ABI_VERSION:
        return (
            f"{NAME} has ABI version {version}, this Python code expects {ABI_VERSION}; "
            "run `pip install -e .` again"
        )
    if lacking := [name for name in SIGNATURES if not hasattr(native, name)]:
        return f"{NAME} lacks {', '.join(lacking)}; run `pip install -e .` again"
    return None
