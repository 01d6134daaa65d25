"""Parts that the routes share: the service, and the documentation of faults."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from sdst.serving.access import Access
from sdst.serving.schemas import Fault
from sdst.serving.service import Service


async def _service(request: Request) -> Service:
    return request.app.state.service


async def _access(request: Request) -> Access:
    return request.app.state.access


Served = Annotated[Service, Depends(_service)]
Guard = Annotated[Access, Depends(_access)]
Id = Annotated[str, Path(description="Of a video, as the list has it.", max_length=100)]


def faults(**reasons: str) -> dict[int | str, dict[str, Any]]:
    """The faults of a route for OpenAPI, `_404="no such video"`."""
    return {
        int(status.removeprefix("_")): {"model": Fault, "description": reason}
        for status, reason in reasons.items()
    }
