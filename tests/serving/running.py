"""A server in a thread, and requests to it as any client sends them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from sdst.grounding.grounder import Grounder
from sdst.serving.access import Access
from sdst.serving.app import create_app
from sdst.serving.library import Library
from sdst.serving.library_index import LibraryIndex
from sdst.serving.server import bind, make_server, url_of
from sdst.serving.service import Service

MOST_BYTES = 10**7
PATIENCE = 60  # seconds


@dataclass(frozen=True)
class Reply:
    """The answer of a server."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of a fault."""
        [(key, line)] = self.json.items()
        assert key == "error"
        assert "\n" not in line
        return line


@dataclass
class Running:
    """A server that runs, and its service."""

    url: str
    service: Service

    def ask(
        self, method: str, path: str, content: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Send a request: bytes as they are, None nothing, all else as JSON."""
        sent = {"Content-Type": "application/json"} | dict(headers or {})
        if content is not None and not isinstance(content, bytes):
            content = json.dumps(content).encode()
        request = Request(self.url + path, content, sent, method=method)
        try:
            with urlopen(request, timeout=PATIENCE) as reply:
                return Reply(reply.status, reply.headers, reply.read())
        except HTTPError as error:
            with error:
                return Reply(error.code, error.headers, error.read())

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    def upload(self, file: Path) -> dict[str, Any]:
        """Upload a video and wait until it is encoded."""
        reply = self.ask("POST", f"/api/videos?name={file.name}", file.read_bytes())
        assert reply.status == 201, reply.body
        return self.settled(reply.json["id"])

    def settled(self, vid: str) -> dict[str, Any]:
        """A video once its job has ended."""
        video: dict[str, Any] = {}
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            video = self.get(f"/api/videos/{vid}").json
            if video["state"] in ("ready", "failed"):
                return video
            time.sleep(0.02)
        raise TimeoutError(video)


@contextmanager
def running(
    grounder: Grounder,
    folder: Path,
    files: Mapping[str, Path] | None = None,
    token: str | None = None,
    index: Path | None = None,
) -> Iterator[Running]:
    """A server on a free port, for the block."""
    library = Library(folder, files or {}, MOST_BYTES)
    library_index = None if index is None else LibraryIndex(index, grounder.encoder)
    service = Service(grounder, library, "untrained", library_index)
    bound = bind("127.0.0.1", 0)
    server = make_server(create_app(service, Access(token, local=True)))
    thread = Thread(target=server.run, args=([bound],))
    thread.start()
    try:
        yield Running(url_of(bound), service)
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
