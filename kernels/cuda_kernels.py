"""The kernels of csrc/cuda: when they can serve, how they are loaded, how they start.

Everything goes through the driver API, which comes with the GPU's driver: no CUDA runtime of our
own is loaded beside PyTorch's. A kernel runs on PyTorch's current stream in the device's primary
context, which is PyTorch's as well.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from sdst.kernels import dispatch, nvrtc

CValue = ctypes._SimpleCData | ctypes.Structure
# What a kernel takes: a tensor's data, null, an int64, or a number or struct of another C type.
Argument = Tensor | None | int | CValue
WARP = 32  # kWarp of csrc/include/warp.h


class DriverError(RuntimeError):
    """The CUDA driver refused a call; the message says which and why."""


class Packed(NamedTuple):
    """A launch's arguments: their values, and the addresses of these, which the driver reads."""

    values: list[CValue]
    addresses: ctypes.Array[ctypes.c_void_p]


@dataclass(frozen=True)
class Kernel:
    """The kernel `name` of csrc/cuda/<source>.cu."""

    source: str
    name: str

    def launch(
        self,
        device: torch.device,
        blocks: int,
        threads: int,
        *arguments: Argument,
        shared: int = 0,
    ) -> None:
        """Start the kernel without waiting for it; nothing where there are no blocks.

        Args:
            blocks, threads: of the grid and of a block, along x.
            shared: bytes of dynamic shared memory a block.
        """
        if blocks == 0:
            return
        index = device.index if device.index is not None else torch.cuda.current_device()
        stream = torch.cuda.current_stream(index).cuda_stream
        function = _function(self.source, self.name, index)
        packed = pack(arguments)
        with _context(index):
            _call(
                "cuLaunchKernel",
                *(function, blocks, 1, 1, threads, 1, 1, shared),
                *(ctypes.c_void_p(stream), packed.addresses, None),
            )


def pack(arguments: Sequence[Argument]) -> Packed:
    """Arguments as the C values that a kernel's parameters are copied from."""
    values = [_to_c(argument) for argument in arguments]
    return Packed(values, (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values)))


def _to_c(argument: Argument) -> CValue:
    if argument is None:
        return ctypes.c_void_p(None)
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else argument


@dispatch.constant
def missing_reason(source: str, device: torch.device) -> str | None:
    """Why the kernels of a source cannot run on a device, None if they can.

    They are compiled and loaded to find out.
    """
    if device.type != "cuda":
        return f"the tensors are on {device}, expected a CUDA device"
    if torch.version.hip is not None:
        return "this PyTorch is built for ROCm, the kernel for NVIDIA's GPUs"
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    index = device.index if device.index is not None else torch.cuda.current_device()
    return _load_reason(source, index)


@cache
def _load_reason(source: str, index: int) -> str | None:
    try:
        _module(source, index)
    except (nvrtc.CompileError, DriverError) as error:
        return f"{source}.cu: {error}"
    return None


@cache
def _module(source: str, index: int) -> ctypes.c_void_p:
    """A source's cubin, loaded on a device."""
    image = nvrtc.cubin(source, architecture(index))
    module = ctypes.c_void_p()
    with _context(index):
        _call("cuModuleLoadData", ctypes.byref(module), image)
    return module


@cache
def _function(source: str, name: str, index: int) -> ctypes.c_void_p:
    function = ctypes.c_void_p()
    module = _module(source, index)
    _call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
    return function


def architecture(index: int) -> int:
    """A device's compute capability, 90 for 9.0."""
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@contextmanager
def _context(index: int) -> Iterator[None]:
    """A device's primary context, current in this thread and then again the one before."""
    _call("cuCtxPushCurrent_v2", _primary_context(index))
    try:
        yield
    finally:
        _call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))


@cache
def _primary_context(index: int) -> ctypes.c_void_p:
    """Kept as long as the process lives, as PyTorch keeps it."""
    torch.cuda.init()
    device, context = ctypes.c_int(), ctypes.c_void_p()
    _call("cuDeviceGet", ctypes.byref(device), index)
    _call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


@cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DriverError(f"NVIDIA's driver cannot be loaded ({error})") from None
    if code := driver.cuInit(0):
        raise DriverError(f"NVIDIA's driver does not start (error {code})")
    return driver


def _call(name: str, *arguments: object) -> None:
    """Call a function of the driver. Raises DriverError if it fails."""
    driver = _driver()
    if code := getattr(driver, name)(*arguments):
        words = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(words))
        raise DriverError(f"{name}: {(words.value or b'unknown error').decode()} ({code})")
