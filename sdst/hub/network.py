"""Downloads of weights, which nobody waits for where there is no network."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock, Thread
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.utils import get_session

logger = logging.getLogger(__name__)

SECONDS = 2.0  # for a name, a connection and the answer to a request
_offline = RLock()  # who holds it may set what the hub's library and all sockets go by


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
        with _offline:
            before = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
            constants.HF_HUB_OFFLINE = True
            socket.setdefaulttimeout(SECONDS)  # of weights that come from elsewhere
            try:
                yield False
            finally:
                constants.HF_HUB_OFFLINE, timeout = before
                socket.setdefaulttimeout(timeout)


def _connects() -> bool:
    logger.info("connecting to %s", hub())
    return reachable(constants.ENDPOINT)


def reachable(url: str) -> bool:
    """Whether a server answers a request for `url`, by the environment's proxies and certificates.

    A connection alone proves little: firewalls and proxies accept what they never answer.
    """
    session, answered = get_session(), list[bool]()

    def ask() -> None:
        try:
            answer = session.head(url, timeout=SECONDS)
        except Exception:  # of requests or httpx, by the library's version
            return
        answered.append(answer.status_code < 500)

    # Each step has its own time limit, and a name server that is not there has none.
    attempt = Thread(target=ask, daemon=True)
    attempt.start()
    attempt.join(SECONDS)
    return answered == [True]


def hub() -> str:
    """The hub's name in messages."""
    return urlsplit(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).netloc
