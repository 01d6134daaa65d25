"""Who may ask: the token, the hosts and origins, and how much a request may hold."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from sdst.serving.refusals import FORBIDDEN, TOO_LARGE, UNAUTHORIZED, Refused

COOKIE = "sdst"
MAX_BODY = 2**20  # bytes of a request that is no upload
OPEN = ("/api/health", "/api/session")  # without a token; so is the page itself, which holds none
SAFE = ("GET", "HEAD")
NO_TOKEN = "the token is missing or wrong; send it as Authorization: Bearer TOKEN"


class Access:
    """Decides on a request before anything else looks at it.

    Args:
        token: that requests to the API must carry; None lets everybody in.
        local: bound to this machine alone. Then only its own names are answered to, or a page
            elsewhere could reach the server under a name of its own (DNS rebinding).
    """

    def __init__(self, token: str | None, local: bool) -> None:
        self._token, self._local = token, local

    @property
    def needs_token(self) -> bool:
        """Whether requests must carry one."""
        return self._token is not None

    def check(self, scope: Scope) -> None:
        """Let a request in.

        Raises:
            Refused: its host, its origin or its token is not right.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._local and not _is_local(host):
            raise Refused(FORBIDDEN, f"host {host[:100]!r}: this server answers to localhost alone")
        origin = headers.get("origin")
        if scope["method"] not in SAFE and origin is not None and urlsplit(origin).netloc != host:
            raise Refused(FORBIDDEN, f"origin {origin[:100]!r}: other sites may not ask here")
        path = scope["path"]
        is_protected = path.startswith("/api/") or path in ("/metrics", "/openapi.json")
        if self.needs_token and is_protected and path not in OPEN and not self._knows(headers):
            raise Refused(UNAUTHORIZED, NO_TOKEN)

    def cookie_for(self, token: str) -> str:
        """The cookie's value for who knows the token.

        Raises:
            Refused: it is another one.
        """
        if self._token is None or not _equal(token, self._token):
            raise Refused(UNAUTHORIZED, "the token is wrong; ask who runs the server")
        return self._cookie

    @property
    def _cookie(self) -> str:
        """Made of the token, so that it outlives a restart, and gives the token to nobody."""
        return hmac.new((self._token or "").encode(), b"sdst page", hashlib.sha256).hexdigest()

    def _knows(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return _equal(given.strip(), self._token or "")
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return morsel is not None and _equal(morsel.value, self._cookie)


async def bounded(receive: Receive) -> Receive:
    """Read a request's body, and give what replays it.

    Raises:
        Refused: it holds more than `MAX_BODY` bytes.
    """
    messages: list[Message] = []
    taken, more = 0, True
    while more:
        message = await receive()
        messages.append(message)
        taken += len(message.get("body", b""))
        more = message.get("more_body", False)
        if taken > MAX_BODY:
            raise Refused(TOO_LARGE, f"the request holds more than {MAX_BODY:,} bytes")
    read = iter(messages)

    async def replay() -> Message:
        message = next(read, None)
        return await receive() if message is None else message

    return replay


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_secure(request: Request) -> bool:
    """Whether the browser came by HTTPS, as a proxy in front says."""
    return request.headers.get("x-forwarded-proto", request.url.scheme) == "https"


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name is not None and is_loopback(name)


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
