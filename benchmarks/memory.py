"""Peak memory of a call, as the kernel of Linux counts it: what any library allocates is in it."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

_PROCESS = Path("/proc/self")


def peak_memory(call: Callable[[], object]) -> int:
    """Bytes that `call` needed at its peak beyond what this process held before, Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not serve the call unseen
    (_PROCESS / "clear_refs").write_text("5")  # resets the peak
    before = _resident("VmRSS")
    call()
    return max(_resident("VmHWM") - before, 0)


def _resident(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    return 1024 * int(found[1])
