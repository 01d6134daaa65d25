"""A model hub on this machine: what `huggingface_hub` asks of one to make, fill and fetch a
repository, over HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories in memory, whose last commit is all there is; and the paths that were asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Files] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Hub]:
    with Hub() as hub:
        Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, Hub)
        return self.server

    def do_POST(self) -> None:
        path = self._path()
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if path == ["api", "repos", "create"]:
            content = json.loads(body)
            name = f"{content['organization']}/{content['name']}"
            self.hub.repositories.setdefault(name, {})
            self._answer({"url": f"{self.hub.url}/{name}", "name": name, "id": name})
        elif path == ["api", "validate-yaml"]:
            self._answer({"warnings": [], "errors": []})
        elif path[4:5] == ["preupload"]:
            names = [file["path"] for file in json.loads(body)["files"]]
            mode = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer({"files": [{"path": name, **mode} for name in names]})
        elif path[4:5] == ["commit"]:
            files = self.hub.repositories["/".join(path[2:4])]
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.hub.url}/{'/'.join(path[2:4])}/commit/{_sha(files)}"
            self._answer({"commitOid": _sha(files), "commitUrl": url, "success": True})
        else:
            self._refuse()

    def do_HEAD(self) -> None:
        self._file_or_refuse(with_content=False)

    def do_GET(self) -> None:
        path = self._path()
        files = self.hub.repositories.get("/".join(path[2:4])) if path[0] == "api" else None
        if files is None:
            self._file_or_refuse(with_content=True)
        elif path[4:5] == ["tree"]:
            self._answer(
                [
                    {"type": "file", "path": name, "size": len(x), "oid": _sha({name: x})}
                    for name, x in files.items()
                ]
            )
        else:
            siblings = [{"rfilename": name} for name in files]
            name = "/".join(path[2:4])
            self._answer({"id": name, "sha": _sha(files), "siblings": siblings})

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _path(self) -> list[str]:
        path = urlsplit(self.path).path
        self.hub.asked.append(path)
        return path.strip("/").split("/")

    def _file_or_refuse(self, with_content: bool) -> None:
        owner, repository, kind, *_, name = [*self._path(), "", "", ""][:5]
        files = self.hub.repositories.get(f"{owner}/{repository}", {})
        if kind != "resolve" or name not in files:
            return self._refuse()
        self.send_response(200)
        self.send_header("ETag", f'"{_sha({name: files[name]})}"')
        self.send_header("X-Repo-Commit", _sha(files))
        self.send_header("Content-Length", str(len(files[name])))
        self.end_headers()
        if with_content:
            self.wfile.write(files[name])

    def _answer(self, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()


def _sha(files: Files) -> str:
    digest = hashlib.sha1()
    for name in sorted(files):
        digest.update(name.encode())
        digest.update(files[name])
    return digest.hexdigest()
