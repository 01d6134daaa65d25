from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sdst import Grounder
from sdst.serving.access import is_loopback
from tests.serving.running import Running, running

TOKEN = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def guarded(
    one_grounder: Grounder, film: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    with running(one_grounder, folder, {"film.mp4": film}, TOKEN) as server:
        yield server


@pytest.mark.parametrize("path", ["/api/videos", "/api/about", "/metrics", "/openapi.json"])
def test_without_the_token_nothing_is_told(guarded: Running, path: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "sdst=wrong"}):
        reply = guarded.ask("GET", path, headers=headers)
        assert reply.status == 401
        assert "Authorization: Bearer TOKEN" in reply.error
    assert guarded.get(path, Authorization=f"Bearer {TOKEN}").status == 200


def test_an_upload_without_the_token_is_refused(guarded: Running) -> None:
    assert guarded.ask("POST", "/api/videos?name=a.mp4", b"text").status == 401


def test_health_and_the_page_need_no_token(guarded: Running) -> None:
    assert guarded.get("/api/health").json == {"status": "ok"}
    assert guarded.get("/").status == 200


def test_the_token_buys_a_cookie_that_does_not_hold_it(guarded: Running) -> None:
    reply = guarded.ask("POST", "/api/session", {"token": TOKEN})
    cookie = reply.headers["Set-Cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    [video] = guarded.get("/api/videos", Cookie=cookie.split(";")[0]).json
    assert guarded.get(f"/api/videos/{video['id']}/file", Cookie=cookie.split(";")[0]).status == 200


def test_a_wrong_token_buys_nothing(guarded: Running) -> None:
    reply = guarded.ask("POST", "/api/session", {"token": "guess"})
    assert reply.status == 401
    assert "Set-Cookie" not in reply.headers


def test_other_sites_may_not_change_anything(server: Running) -> None:
    reply = server.ask("POST", "/api/search", {"queries": ["a"]}, {"Origin": "http://evil.example"})
    assert reply.status == 403
    reply = server.ask("POST", "/api/search", {"queries": ["a"]}, {"Origin": server.url})
    assert reply.status == 200


def test_no_answer_allows_other_origins(server: Running) -> None:
    reply = server.get("/api/videos", Origin="http://evil.example")
    assert not [name for name in reply.headers if name.lower().startswith("access-control")]


def test_a_local_server_answers_to_local_names_alone(server: Running) -> None:
    assert server.get("/api/videos", Host="localhost:8321").status == 200
    assert server.get("/api/videos", Host="[::1]:8321").status == 200
    assert server.get("/api/videos", Host="rebound.example").status == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
