"""Downloads of weights, which nobody waits for where there is no network."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from unittest.mock import patch
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants

logger = logging.getLogger(__name__)

SECONDS = 2.0  # for a name and a connection


@contextmanager
def downloads(allowed: bool = True) -> Iterator[bool]:
    """Let the hub's library use its cache alone in this block where the hub cannot be reached.

    Args:
        allowed: it may be asked at all.

    Yields:
        Whether it can be reached. The library itself would try for minutes.
    """
    if constants.HF_HUB_OFFLINE:
        yield False
    elif allowed and _connects():
        yield True
    else:
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(SECONDS)  # of weights that come from elsewhere
        try:
            with patch.object(constants, "HF_HUB_OFFLINE", True):
                yield False
        finally:
            socket.setdefaulttimeout(before)


def _connects() -> bool:
    logger.info("connecting to %s", hub())
    return reachable(constants.ENDPOINT)


def reachable(url: str) -> bool:
    """Whether something answers at the address of `url`, or of the proxy that leads there."""
    host = urlsplit(url).hostname or ""
    proxy = getproxies().get(urlsplit(url).scheme)
    if proxy and not proxy_bypass(host):
        url = proxy if "//" in proxy else f"//{proxy}"
    found = urlsplit(url)
    port = found.port or (80 if found.scheme == "http" else 443)
    answered: list[bool] = []

    def connect() -> None:
        try:
            socket.create_connection((found.hostname or "", port), SECONDS).close()
            answered.append(True)
        except OSError:
            pass

    # A name server that is not there is waited for longer than the connection.
    attempt = Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(SECONDS)
    return bool(answered)


def hub() -> str:
    """What to call the hub in a message."""
    return urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).netloc
