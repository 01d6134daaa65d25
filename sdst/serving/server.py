"""A socket, and uvicorn on it until a signal ends it."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from sdst.errors import InputError

SECONDS_TO_FINISH = 10  # requests that are answered when a signal comes


def bind(host: str, port: int) -> socket.socket:
    """A socket that connections may come to; bound before a model is loaded, so that faults show.

    Raises:
        InputError: the port is in use, or the host is not this machine's.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise InputError(
            f"--host {host}: unknown ({error.strerror}); give 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    family, kind, protocol, _, address = found[0]
    bound = socket.socket(family, kind, protocol)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(address)
        bound.listen(1024)  # or a second server could bind the port, too
    except OSError as error:
        bound.close()
        raise InputError(_reason(host, port, error)) from None
    return bound


def make_server(app: FastAPI) -> uvicorn.Server:
    """A server that finishes the requests it is answering before it ends."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    return uvicorn.Server(config)


def serve(app: FastAPI, bound: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C."""
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it is done
        make_server(app).run(sockets=[bound])


def url_of(bound: socket.socket) -> str:
    """How a browser on this machine reaches it."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "localhost"
    elif address.version == 6:
        host = f"[{host}]"
    return f"http://{host}:{port}"


def _reason(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"--port {port}: another program uses it; give another one, or 0 for any that is free"
        )
    if error.errno == errno.EACCES:
        return f"--port {port}: no permission; give one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host}: no address of this machine; give 127.0.0.1, or 0.0.0.0 for all"
    return f"--host {host} --port {port}: {os.strerror(error.errno or 0)}"
