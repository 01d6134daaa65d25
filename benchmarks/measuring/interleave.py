"""Fair comparison on a shared machine: candidates take turns, and ratios are taken turn by turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

Name = TypeVar("Name", bound=Hashable)


def interleave(
    candidates: Mapping[Name, Callable[[], object]], rounds: int
) -> dict[Name, list[float]]:
    """Seconds of every candidate in every round: A B C A B C ..., after two rounds unmeasured.

    In its turn a candidate runs once unmeasured, so that it finds its own data in the caches and
    not what the one before it left there.
    """
    seconds: dict[Name, list[float]] = {name: [] for name in candidates}
    for turn in range(rounds + 2):
        for name, call in candidates.items():
            call()
            start = time.perf_counter()
            call()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median, least and greatest of the ratios of a round: how many times faster `fast` is."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
