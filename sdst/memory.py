"""How much memory this process holds, as the kernel of Linux counts it: any library's is in it."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Callable
from pathlib import Path

from sdst.errors import InputError

_PROCESS, _SYSTEM = Path("/proc/self"), Path("/proc/meminfo")
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_bytes(text: str) -> int:
    """`2GB` -> 2,000,000,000; also KB, MB, KiB, MiB, GiB and plain bytes.

    Raises:
        InputError: it is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].upper() not in _UNITS:
        raise InputError(f"size {text!r}: expected one like 2GB, 1.5GiB or 800MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def format_bytes(count: float) -> str:
    """1,234,000,000 -> `1.23 GB`."""
    return f"{count / 1e9:.2f} GB"


def own_memory() -> int:
    """Bytes that this process has allocated and touched, Linux only.

    Without what it has mapped from files, libraries and stores: the system shares that and takes it
    back where memory is short.
    """
    return _resident("RssAnon") + _resident("RssShmem")


def available_memory() -> int:
    """Bytes that the system could still give to this process, Linux only; elsewhere no bound."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", _SYSTEM.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return 1024 * int(found[1]) if found else sys.maxsize


def release() -> None:
    """Give back to the system what was freed."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes that `call` needed at its peak beyond what this process held before, Linux only."""
    release()  # what was freed before must not serve the call unseen
    (_PROCESS / "clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    [kilobytes] = re.findall(
        rf"^{field}:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE
    )
    return 1024 * int(kilobytes)
