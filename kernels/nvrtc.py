"""CUDA sources compiled when they are needed, by the NVRTC that PyTorch's wheels bring.

No toolkit, no host compiler: NVRTC turns one source of csrc/cuda into a cubin for one architecture
in about a second. The cubin is kept in the package's cache under a hash of all that it depends on.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

from sdst.files.cache_folder import NoCacheError, cache_dir

logger = logging.getLogger(__name__)

CSRC = Path(__file__).parent / "csrc"
OPTIONS = ("--std=c++17", "--fmad=true", "--device-as-default-execution-space")
_DIGEST = 32  # bytes of SHA-256, which a cached cubin begins with


class CompileError(RuntimeError):
    """NVRTC cannot be used or does not compile a source; the message says why."""


def sources() -> list[str]:
    """Names of the sources in csrc/cuda."""
    return sorted(path.stem for path in (CSRC / "cuda").glob("*.cu"))


def missing_reason() -> str | None:
    """Why nothing can be compiled here, None if it can."""
    try:
        version()
    except CompileError as error:
        return str(error)
    return None


def version() -> tuple[int, int]:
    """NVRTC's. Raises CompileError if there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


@cache
def architectures() -> tuple[int, ...]:
    """Compute capabilities that NVRTC compiles for, 90 for 9.0."""
    count = ctypes.c_int()
    _check(_nvrtc().nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    found = (ctypes.c_int * count.value)()
    _check(_nvrtc().nvrtcGetSupportedArchs(found))
    return tuple(found)


def cubin(source: str, architecture: int) -> bytes:
    """csrc/cuda/<source>.cu for one architecture, from the cache if it is there undamaged.

    Raises:
        CompileError: there is no NVRTC, or it does not compile the source.
    """
    file = cached_file(source, architecture)
    found = None if file is None else _read(file)
    if found is None:
        logger.info("compiling %s.cu for compute capability %s", source, architecture / 10)
        found = compile_source(source, architecture)
        if file is not None:
            _write(file, found)
    return found


def is_cached(source: str, architecture: int) -> bool:
    """Whether `cubin` needs no compiling."""
    file = cached_file(source, architecture)
    return file is not None and _read(file) is not None


def cached_file(source: str, architecture: int) -> Path | None:
    """Where the cubin is kept; None where there is no cache."""
    text, headers = _texts(source)
    depends = (text, *headers, *headers.values(), *OPTIONS, *map(str, version()))
    key = hashlib.sha256("\0".join(depends).encode()).hexdigest()[:16]
    with suppress(NoCacheError):
        return cache_dir() / "cubins" / f"{source}-sm_{architecture}-{key}.cubin"
    return None


def compile_source(source: str, architecture: int) -> bytes:
    """The cubin of csrc/cuda/<source>.cu, compiled now. Raises CompileError."""
    if architecture not in architectures():
        offered = ", ".join(map(str, architectures()))
        raise CompileError(
            f"NVRTC {'.'.join(map(str, version()))} does not compile for compute capability "
            f"{architecture / 10}, only for {offered}; install a PyTorch of another CUDA version"
        )
    text, headers = _texts(source)
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    names, contents = _strings(*headers), _strings(*headers.values())
    created = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), f"{source}.cu".encode(), len(headers), contents, names
    )
    _check(created)
    try:
        options = _strings(f"--gpu-architecture=sm_{architecture}", *OPTIONS)
        if nvrtc.nvrtcCompileProgram(program, len(options), options) != 0:
            log = _output(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, program)
            raise CompileError(f"NVRTC: {log.rstrip(bytes(1)).decode(errors='replace').strip()}")
        return _output(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, program)
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


@cache
def _texts(source: str) -> tuple[str, dict[str, str]]:
    """A source, and all headers by the names that it includes them by."""
    files = sorted([*(CSRC / "include").iterdir(), *(CSRC / "nvrtc").iterdir()])
    headers = {file.name: file.read_text() for file in files}
    return (CSRC / "cuda" / f"{source}.cu").read_text(), headers


@cache
def _nvrtc() -> ctypes.CDLL:
    """The library of PyTorch's own CUDA version."""
    if torch.version.cuda is None:
        raise CompileError(
            "this PyTorch is built without CUDA, whose wheels bring the compiler (NVRTC)"
        )
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    for file in (*_wheels(name), Path(name)):
        with suppress(OSError):
            # NVRTC asks for its builtins by name, and finds them where they are loaded already.
            for builtins in file.parent.glob("libnvrtc-builtins.so*") if file.parent.name else ():
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return ctypes.CDLL(str(file))
    raise CompileError(f"{name} is not found; `pip install nvidia-cuda-nvrtc` brings it")


def _wheels(name: str) -> list[Path]:
    """Where wheels of NVIDIA and PyTorch have a library."""
    found = []
    for folder in map(Path, sys.path):
        found += sorted((folder / "nvidia").glob(f"*/lib/{name}"))
    return [*found, *(Path(torch.__file__).parent / "lib").glob(name)]


def _read(file: Path) -> bytes | None:
    """A cached cubin; None if it is not there or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, found = content[:_DIGEST], content[_DIGEST:]
    return found if hashlib.sha256(found).digest() == digest else None


def _write(file: Path, found: bytes) -> None:
    """Keep a cubin, all of it or nothing; where the cache cannot be written, go without."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.stem}-")
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(hashlib.sha256(found).digest() + found)
            os.replace(temporary, file)
        except OSError:
            os.unlink(temporary)
            raise


def _strings(*texts: str) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))


def _output(
    size_of: Callable[..., int], get: Callable[..., int], program: ctypes.c_void_p
) -> bytes:
    """A text or binary that NVRTC has of a program, of which it first gives the size."""
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(get(program, buffer))
    return buffer.raw


def _check(code: int) -> None:
    if code != 0:
        get = _nvrtc().nvrtcGetErrorString
        get.restype = ctypes.c_char_p
        raise CompileError(f"NVRTC: {get(code).decode()}")
