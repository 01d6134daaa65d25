"""The HTTP application: routes, the page, one line for every fault."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sdst import __version__
from sdst.errors import InputError
from sdst.serving.access import Access, bounded
from sdst.serving.refusals import (
    BAD_REQUEST,
    BUSY,
    UNAUTHORIZED,
    UNPROCESSABLE,
    Refused,
    status_and_line,
)
from sdst.serving.routes import questions, server, videos
from sdst.serving.service import Service

logger = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
DESCRIPTION = (
    'Find the moments of videos that sentences describe. Every fault is `{"error": "one line"}`. '
    "Where the server has a token, send `Authorization: Bearer TOKEN`."
)
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
RETRY_AFTER = "5"  # seconds, where the server is busy


def create_app(service: Service, access: Access) -> FastAPI:
    """The application of a service, which ends with it."""

    @asynccontextmanager
    async def closing(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="sdst",
        version=__version__,
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's own loads its script from another server
        redoc_url=None,
        lifespan=closing,
    )
    app.state.service, app.state.access = service, access
    for name, value in videos.limits().items():
        setattr(app.state, name, value)
    for routes in (videos, questions, server):
        app.include_router(routes.router)
    _add_page(app)
    for kind in (InputError, OSError, MemoryError):
        app.add_exception_handler(kind, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(HTTPException, _refuse_by_status)
    app.add_exception_handler(ClientDisconnect, _note_disconnect)
    app.add_exception_handler(Exception, _own_fault)
    app.add_middleware(Gate, service=service, access=access)
    return app


class Gate:
    """Middleware: lets requests in, bounds them but uploads, counts them, adds headers to all."""

    def __init__(self, app: ASGIApp, service: Service, access: Access) -> None:
        self._app, self._metrics, self._access = app, service.metrics, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            try:
                self._access.check(scope)
                if (scope["method"], scope["path"]) != ("POST", videos.router.prefix):
                    receive = await bounded(receive)
            except Refused as error:
                await fault(error.status, str(error))(scope, receive, send_with_headers)
            else:
                await self._app(scope, receive, send_with_headers)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)


def fault(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An answer that is no success."""
    usual = {BUSY: {"Retry-After": RETRY_AFTER}, UNAUTHORIZED: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse({"error": line}, status, {**usual.get(status, {}), **(headers or {})})


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})

    @app.get("/api", include_in_schema=False)
    async def api_page() -> FileResponse:
        return FileResponse(PAGE / "api.html", headers={"Cache-Control": "no-cache"})

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    known = status_and_line(error)
    if known is None:
        raise error
    if not isinstance(error, InputError):
        logger.error("%s %s: %s", request.method, request.url.path, error)
    return fault(*known)


async def _refuse_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first, *rest = error.errors()
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    more = f"; and {len(rest)} more" if rest else ""
    return fault(UNPROCESSABLE, f"{place}: {first['msg']}{more}; see /api")


async def _refuse_by_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == BAD_REQUEST:  # FastAPI's, of a body that is no text
        return fault(UNPROCESSABLE, "body: expected JSON in UTF-8; see /api")
    phrase = HTTPStatus(error.status_code).phrase.lower()
    line = f"{request.method} {request.url.path[:200]}: {phrase}; see /api"
    return fault(error.status_code, line, error.headers)


async def _note_disconnect(request: Request, _: Exception) -> JSONResponse:
    logger.info("%s %s: the client went away", request.method, request.url.path)
    return fault(BAD_REQUEST, "the connection ended early")


async def _own_fault(request: Request, _: Exception) -> JSONResponse:
    return fault(500, "a fault of the server; its log has the reason")
