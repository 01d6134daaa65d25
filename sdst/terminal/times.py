"""Times as a user reads them."""

from __future__ import annotations


def format_time(seconds: float) -> str:
    """`m:ss.s`: 83.26 -> `1:23.3`."""
    minutes, tenths = divmod(round(seconds * 10), 600)
    return f"{minutes}:{tenths / 10:04.1f}"
