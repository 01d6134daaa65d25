"""Refusals of a server, each with its HTTP status."""

from __future__ import annotations

from errno import EDQUOT, ENOSPC

from sdst.errors import InputError, explain

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, TIMEOUT, CONFLICT = 400, 401, 403, 404, 408, 409
TOO_LARGE, UNPROCESSABLE, BUSY, FULL = 413, 422, 503, 507


class Refused(InputError):
    """A request that cannot be served as it is.

    Args:
        status: of HTTP.
        message: one line.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def status_and_line(error: BaseException) -> tuple[int, str] | None:
    """How to answer a request that failed; None for a bug of ours."""
    line = explain(error)
    if line is None:
        return None
    if isinstance(error, Refused):
        return error.status, line
    if isinstance(error, InputError):
        return UNPROCESSABLE, line
    if isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT):
        return FULL, "the server's disk is full; delete videos or ask who runs it"
    return BUSY, "the server lacks a resource (memory, files); try again, its log has the reason"
