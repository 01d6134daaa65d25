"""The registry of ops: the one place outside of its package that an op is added in.

An op registers itself when its package is imported. `sdst.info`, the benchmarks, the compile tests
and the hostile calls go through `OPS`, and name no op themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Arguments = dict[str, Any]
Reasons = Callable[..., list[str]]
Order = Callable[..., tuple[str, ...]]

# Where `pytest -m gpu` ran last.
H100 = "NVIDIA H100 on 2026-11-26 (torch 2.11, Triton 3.6)"
BY_NVCC = f"{H100}, built by nvcc; not yet as NVRTC builds and the driver launches it"


@dataclass(frozen=True)
class Op:
    """An op as other packages see it.

    Attributes:
        name: of its package.
        call: the public function; takes what `example` gives, and `implementation`.
        implementations: by name, why each does not fit a call; the preferred first, the reference
            last.
        example: a good call's arguments by name, made by a `examples.Make`. Every other parameter
            is a size or an option with a default.
        choices: for the parameters of `example`, values that are good and small, edges among them.
        asked: the arguments that `dispatch.choose` sees, in its order.
        order: of what `dispatch.choose` sees, the names that "auto" tries, where these decide;
            those it leaves out serve only when requested.
        launches: parameters of `example` that the Triton kernels' budgets are committed for.
        ran_on: the GPU that an implementation's tests ran on, by its name, where they did.
    """

    name: str
    call: Callable[..., Any]
    implementations: Mapping[str, Reasons]
    example: Callable[..., Arguments]
    choices: Mapping[str, Sequence[object]]
    asked: tuple[str, ...]
    order: Order | None = None
    launches: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    ran_on: Mapping[str, str] = field(default_factory=dict)


OPS: dict[str, Op] = {}


def register(op: Op) -> None:
    """Make `op` known by its name."""
    OPS[op.name] = op


def always(*args: object) -> list[str]:
    """Reasons of an implementation that fits every call."""
    return []
