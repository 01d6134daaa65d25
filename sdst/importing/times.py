"""Times as people write them, in seconds."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sdst.files.text import is_number
from sdst.importing.rows import Unit, Value

EXPECTED = "expected seconds, mm:ss or h:mm:ss.mmm"
_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,9}):(\d{1,2}(?:[.,]\d+)?)")
_SECONDS = re.compile(
    r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?)\s*(?:s|secs?|seconds?)?"
)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
_PER_SECOND = {"s": 1.0, "ms": 1000.0}


def parse_time(value: Value, comma: bool = False) -> float:
    """Seconds, or whatever unit a plain number has.

    Args:
        value: a number, or a text: `83.5`, `83,5`, `1:23.5`, `0:01:23,5`, `83.5 s`.
        comma: the file has decimal commas, so that `1,234` is no thousand.

    Raises:
        ValueError: it is no time, or may be one of two; the message says why.
    """
    if not isinstance(value, str):
        if not is_number(value):
            raise ValueError(f"{str(value)[:20]} is no time; {EXPECTED}")
        return float(value)
    text = value.strip()
    if found := _CLOCK.fullmatch(text):
        return _clock(text, *found.groups())
    if text.count(":") > 2 or ";" in text:
        raise ValueError(f"{text!r} counts frames; {EXPECTED}")
    found = _SECONDS.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is no time; {EXPECTED}" if text else f"is empty; {EXPECTED}")
    if _THOUSANDS.fullmatch(found[1]) and not comma:
        point, plain = found[1].replace(",", "."), found[1].replace(",", "")
        raise ValueError(f"{text!r} may be {point} or {plain}; write one of them")
    return float(found[1].replace(",", "."))


def has_decimal_commas(values: Iterable[Value]) -> bool:
    """Whether one of the texts can be read with a decimal comma only, and none has a point."""
    texts = [value.strip() for value in values if isinstance(value, str)]
    commas = [text for text in texts if "," in text and not _THOUSANDS.fullmatch(text)]
    return bool(commas) and not any("." in text for text in texts)


def in_seconds(value: float, unit: Unit, frame_rate: float, is_end: bool) -> float:
    """Seconds of a time in `unit`. Frames are counted from 1; the last one is part of a moment."""
    if unit == "frames":
        return (value if is_end else value - 1) / frame_rate
    return value / _PER_SECOND[unit]


def _clock(text: str, hours: str | None, minutes: str, seconds: str) -> float:
    left = float(seconds.replace(",", "."))
    if left >= 60 or (hours is not None and int(minutes) >= 60):
        raise ValueError(f"{text!r} has 60 minutes or seconds, or more; {EXPECTED}")
    return int(hours or 0) * 3600 + int(minutes) * 60 + left
