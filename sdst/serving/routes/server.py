"""The server itself: what it is, whether it works, who comes in."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from sdst import __version__
from sdst.serving.access import COOKIE, is_secure
from sdst.serving.routes.shared import Guard, Served, faults
from sdst.serving.schemas import About, Login

router = APIRouter(tags=["server"])

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
A_MONTH = 30 * 24 * 3600


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


@router.get("/api/health")
async def health() -> Health:
    """For load balancers; needs no token."""
    return Health()


@router.get("/api/about")
async def about(service: Served) -> About:
    """The model, its device, and the server's limits."""
    return About(version=__version__, **service.about())


@router.get("/metrics", response_class=Response)
def metrics(service: Served) -> Response:
    """Counters, in the text format of Prometheus."""
    return Response(service.metrics.text(), media_type=TEXT_FORMAT)


@router.post("/api/session", status_code=204, responses=faults(_401="The token is wrong."))
async def log_in(request: Request, login: Login, access: Guard) -> Response:
    """Exchange the token for a cookie, which players and pictures of a page send along."""
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE,
        access.cookie_for(login.token),
        max_age=A_MONTH,
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )
    return response


@router.delete("/api/session", status_code=204)
async def log_out() -> Response:
    """Drop the cookie."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE)
    return response
