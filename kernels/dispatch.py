"""Which implementation of an op serves a call, and why the others do not.

An op's entry in the registry has its implementations, each with a function that takes arguments of
the call and returns the reasons why it does not fit. An implementation is requested by
`implementation=` of the call, else by `use_implementation(...)`, else by SDST_IMPLEMENTATION in the
environment at import; otherwise ("auto") the first that fits is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from sdst.kernels.registry import OPS

ON_GPU = ("triton", "cuda")  # implementations that serve no tensor on a CPU

_requested = (os.environ.get("SDST_IMPLEMENTATION") or "auto",)  # the first that an op has


class ImplementationError(RuntimeError):
    """The requested implementation does not fit the call."""


def constant(function: Callable) -> Callable:
    """Declare to the compiler that `function` always returns the same.

    As `torch.compiler.assume_constant_result`, which imports the compiler: a second and 100 MB that
    few need.
    """
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010, of a function
    return function


def unsupported_reasons(op: str, implementation: str, *args: object) -> list[str]:
    """Why `implementation` cannot serve a call of `op` with these arguments; empty if it can."""
    offered = OPS[op].implementations
    if implementation not in offered:
        return [f"{op} has no implementation {implementation!r}, only {', '.join(offered)}"]
    return offered[implementation](*args)


def requested(op: str) -> str:
    """The implementation requested of all ops, "auto" where `op` has no such implementation.

    Raises:
        ImplementationError: no op has one.
    """
    for name in _requested:
        if name in OPS[op].implementations:
            return name
        _check_known(name)
    return "auto"


def _check_known(name: str) -> None:
    if name != "auto" and not any(name in op.implementations for op in OPS.values()):
        known = {"auto"}.union(*(op.implementations for op in OPS.values()))
        raise ImplementationError(f"no op has an implementation {name!r}: {sorted(known)}")


def would_take(op: str, implementation: str, *args: object) -> bool:
    """Whether `implementation` is not overridden and can serve a call of `op`."""
    open_to_it = requested(op) in ("auto", implementation)
    return open_to_it and not unsupported_reasons(op, implementation, *args)


def choose(op: str, implementation: str, *args: object) -> str:
    """The implementation that serves a call of `op`.

    A request to all ops (context manager or environment) binds every op that has such an
    implementation; the others ignore it.

    Raises:
        ImplementationError: the requested one does not fit, all reasons being listed, or no op has
            it.
    """
    chosen = requested(op) if implementation == "auto" else implementation
    if chosen == "auto":
        entry = OPS[op]
        for name in entry.order(*args) if entry.order else entry.implementations:
            if name in ON_GPU and isinstance(args[0], Tensor) and args[0].is_cpu:
                continue  # without its reasons, which take longer to list than some calls
            if not entry.implementations[name](*args):
                return name
    reasons = unsupported_reasons(op, chosen, *args)
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise ImplementationError(
            f"{op}: implementation {chosen!r} does not fit this call:{listed}"
        )
    return chosen


@contextmanager
def use_implementation(*names: str) -> Iterator[None]:
    """Request of every op the first of `names` that it has ("auto" of none); process-wide."""
    global _requested
    for name in names:
        _check_known(name)
    before, _requested = _requested, names
    try:
        yield
    finally:
        _requested = before
