"""Programs that are recorded for elsewhere (`torch.export`), with sizes that are symbols.

A reference asks `is_exporting` where what it does eagerly depends on a size, or has no counterpart
in ONNX: what it does instead gives the same for any size.
"""

from __future__ import annotations

import torch


def is_exporting() -> bool:
    """Whether `torch.export` records this call."""
    # PyTorch before 2.7 cannot tell; it serves for all but exporting.
    return getattr(torch.compiler, "is_exporting", bool)()
