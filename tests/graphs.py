"""A stand-in for CUDA graphs on any machine: a replay makes the call again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from sdst.graphs import Result
from sdst.training.graphs import Step


class Rerun(Generic[Result]):
    """As a captured call: it computes nothing before its first replay."""

    result: Result

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call

    def replay(self) -> None:
        self.result = self._call()


class Faulty(Rerun[Step]):
    """A graph whose replays are spoilt, as by memory that another call uses."""

    def replay(self) -> None:
        super().replay()
        step = self.result
        self.result = step._replace(norm=step.norm * 1.01)


def refuse(call: Callable[[], Result]) -> Rerun[Result]:
    """A capture that fails."""
    raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
