"""Which implementation of an op serves a call, and why the others do not.

Every op registers its implementations, the preferred one first, each with a function that takes the
arguments of the call and returns the reasons why it does not fit; and an order, where the call
decides which is preferred. An implementation is requested by `implementation=` of the call, else by
`use_implementation(...)`, else by SDST_IMPLEMENTATION in the environment at import; otherwise
("auto") the first that fits is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Reasons = Callable[..., list[str]]
Order = Callable[..., tuple[str, ...]]

_implementations: dict[str, dict[str, Reasons]] = {}
_orders: dict[str, Order] = {}
_requested = os.environ.get("SDST_IMPLEMENTATION") or "auto"


class ImplementationError(RuntimeError):
    """The requested implementation does not fit the call."""


def constant(function: Callable) -> Callable:
    """Tell the compiler that `function` says the same whenever it is asked.

    As `torch.compiler.assume_constant_result`, which imports the compiler: a second and 100 MB that
    few need.
    """
    function._dynamo_marked_constant = True
    return function


def always(*args: object) -> list[str]:
    """Reasons of an implementation that fits every call."""
    return []


def register(op: str, order: Order | None = None, **implementations: Reasons) -> None:
    """Declare the implementations of `op`, the preferred one first.

    Args:
        order: of a call's arguments, the names that "auto" tries, where these decide; those it
            leaves out serve only when requested.
    """
    _implementations[op] = implementations
    _orders[op] = order or (lambda *args: tuple(implementations))


def ops() -> tuple[str, ...]:
    """Names of all ops."""
    return tuple(_implementations)


def implementations(op: str) -> tuple[str, ...]:
    """Names of the implementations of `op`, as registered."""
    return tuple(_implementations[op])


def unsupported_reasons(op: str, implementation: str, *args: object) -> list[str]:
    """Why `implementation` cannot serve a call of `op` with these arguments; empty if it can."""
    if implementation not in _implementations[op]:
        offered = ", ".join(_implementations[op])
        return [f"{op} has no implementation {implementation!r}, only {offered}"]
    return _implementations[op][implementation](*args)


def requested(op: str) -> str:
    """What is requested of all ops, "auto" where `op` has no such implementation.

    Raises:
        ImplementationError: no op has one.
    """
    if _requested in _implementations[op]:
        return _requested
    _check_known(_requested)
    return "auto"


def _check_known(name: str) -> None:
    if name != "auto" and not any(name in offered for offered in _implementations.values()):
        known = sorted({"auto"}.union(*_implementations.values()))
        raise ImplementationError(f"no op has an implementation {name!r}: {known}")


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
        for name in _orders[op](*args):
            if not _implementations[op][name](*args):
                return name
    reasons = unsupported_reasons(op, chosen, *args)
    if reasons:
        listed = "".join(f"\n  - {reason}" for reason in reasons)
        raise ImplementationError(
            f"{op}: implementation {chosen!r} does not fit this call:{listed}"
        )
    return chosen


@contextmanager
def use_implementation(name: str) -> Iterator[None]:
    """Request implementation `name` of every op that has it ("auto" of none); process-wide."""
    global _requested
    _check_known(name)
    before, _requested = _requested, name
    try:
        yield
    finally:
        _requested = before
