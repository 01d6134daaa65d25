"""The REST interface, as any client meets it."""

from __future__ import annotations

import csv
import io
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import av
import numpy as np
import pytest
from PIL import Image

from sdst import Grounder
from sdst.grounding.export import FORMATS
from sdst.serving.schemas import Format
from tests.serving.running import MOST_BYTES, Running, running
from tests.untrained import QUERIES


def ground(server: Running, vid: str, queries: list[str], top: int = 5):
    return server.ask("POST", f"/api/videos/{vid}/ground", {"queries": queries, "top": top})


def test_an_uploaded_video_is_encoded_asked_and_deleted(
    server: Running, film: Path, one_grounder: Grounder
) -> None:
    video = server.upload(film)
    assert (video["name"], video["state"], video["removable"]) == ("film.mp4", "ready", True)
    reply = ground(server, video["id"], QUERIES, top=3)
    expected = one_grounder.ground(film, QUERIES, top=3)
    for answer, other in zip(reply.json["answers"], expected, strict=True):
        np.testing.assert_allclose(answer["windows"], other.windows, atol=1e-3)
        np.testing.assert_allclose(answer["saliency"], other.saliency, atol=1e-3)
        assert "video" not in answer  # nor any path of the server
    assert server.ask("DELETE", f"/api/videos/{video['id']}").status == 204
    assert server.get(f"/api/videos/{video['id']}").status == 404


def test_deleting_a_video_deletes_its_features(
    grounder: Grounder, own_cache: Path, film: Path, tmp_path: Path
) -> None:
    with running(grounder, tmp_path / "library") as server:
        video = server.upload(film)
        assert len(list(own_cache.iterdir())) == 1
        server.ask("DELETE", f"/api/videos/{video['id']}")
    assert list(own_cache.iterdir()) == []


def test_questions_at_once_get_the_answers_of_questions_alone(server: Running, vid: str) -> None:
    sentences = [f"{QUERIES[i % 2]} {'again ' * (i // 2)}".strip() for i in range(16)]
    alone = [ground(server, vid, [sentence]).json["answers"][0] for sentence in sentences]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda s: ground(server, vid, [s]).json["answers"][0], sentences))
    for one, other in zip(together, alone, strict=True):
        assert one["query"] == other["query"]
        np.testing.assert_allclose(one["windows"], other["windows"], atol=2e-3)


def test_search_finds_the_best_moments_of_all_videos(
    server: Running, vid: str, film: Path, one_grounder: Grounder
) -> None:
    [expected] = one_grounder.search({vid: film}, QUERIES[0], top=4)
    [answer] = server.ask("POST", "/api/search", {"queries": QUERIES[:1], "top": 4}).json["answers"]
    assert answer["searched"] == 1
    assert [moment["video"] for moment in answer["moments"]] == [vid] * 4
    found = [(moment["start"], moment["end"]) for moment in answer["moments"]]
    np.testing.assert_allclose(found, [(x.start, x.end) for x in expected], atol=1e-3)


def test_a_least_presence_leaves_out_what_is_rather_absent(
    own_cache: Path, film: Path, tmp_path: Path
) -> None:
    nonsense = {"queries": ["the invoice is due on monday"]}
    with running(Grounder(device="cpu"), tmp_path / "library", {"film.mp4": film}) as server:
        [video] = server.get("/api/videos").json
        assert server.settled(video["id"])["state"] == "ready"
        assert server.get("/api/about").json["presence"]
        for path in (f"/api/videos/{video['id']}/ground", "/api/search"):
            [found] = server.ask("POST", path, nonsense).json["answers"]
            [left] = server.ask("POST", path, nonsense | {"min_presence": 0.99}).json["answers"]
            assert found["moments"] and not left["moments"]


def test_a_model_without_presence_refuses_one_to_ask_for(server: Running, vid: str) -> None:
    assert not server.get("/api/about").json["presence"]
    for path in (f"/api/videos/{vid}/ground", "/api/search"):
        reply = server.ask("POST", path, {"queries": QUERIES, "min_presence": 0.5})
        assert (reply.status, "leave it out" in reply.error) == (422, True)
        assert server.ask("POST", path, {"queries": QUERIES, "min_presence": 1.5}).status == 422


def test_a_file_is_sent_in_parts(server: Running, vid: str, film: Path) -> None:
    whole = server.get(f"/api/videos/{vid}/file")
    assert (whole.status, whole.headers["Content-Type"]) == (200, "video/mp4")
    assert whole.body == film.read_bytes()
    part = server.get(f"/api/videos/{vid}/file", Range="bytes=100-199")
    assert (part.status, part.body) == (206, film.read_bytes()[100:200])
    assert server.get(f"/api/videos/{vid}/file", Range="bytes=99999999-").status == 416


def test_a_thumbnail_is_the_frame_of_its_second(server: Running, vid: str, film: Path) -> None:
    reply = server.get(f"/api/videos/{vid}/thumbnail?at=7.6")
    picture = np.asarray(Image.open(io.BytesIO(reply.body)), float)
    assert picture.shape[0] == 180
    with av.open(str(film)) as container:
        frames = {frame.time: frame for frame in container.decode(video=0)}
    shown = frames[max(time for time in frames if time <= 7.6)].to_ndarray(format="rgb24")
    expected = np.asarray(Image.fromarray(shown).resize((180, 180)), float)
    assert np.abs(picture - expected).mean() < 4


def test_a_thumbnail_beyond_the_end_is_the_last_frame(server: Running, vid: str) -> None:
    assert server.get(f"/api/videos/{vid}/thumbnail?at=99999").status == 200


def test_a_clip_is_a_video_of_its_own(server: Running, vid: str, tmp_path: Path) -> None:
    reply = server.get(f"/api/videos/{vid}/clip?start=3&end=5")
    (tmp_path / "clip.mp4").write_bytes(reply.body)
    assert 'filename="film.3-5.mp4"' in reply.headers["Content-Disposition"]
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8  # 2 s of 4 a second
    assert server.get(f"/api/videos/{vid}/clip?start=5&end=3").status == 400


def export(server: Running, vid: str, what: str):
    moments = [
        {"video": vid, "query": "a dog, it jumps", "rank": 1, "start": 1, "end": 4, "score": 0.5}
    ]
    return server.ask("POST", "/api/export", {"format": what, "moments": moments})


@pytest.mark.parametrize("what", get_args(Format))
def test_an_export_has_the_videos_name_and_no_path(server, vid, film: Path, what: str) -> None:
    reply = export(server, vid, what)
    assert reply.status == 200, reply.body
    assert f'filename="moments.{what}"' in reply.headers["Content-Disposition"]
    assert str(film.parent) not in reply.body.decode()
    if what not in ("srt", "vtt"):  # which name no video
        assert b"film" in reply.body


def test_every_format_is_offered(server: Running, vid: str) -> None:
    assert {f".{name}" for name in get_args(Format)} == set(FORMATS)
    [row] = csv.DictReader(io.StringIO(export(server, vid, "csv").body.decode()))
    assert (row["video"], row["query"], row["end"]) == ("film.mp4", "a dog, it jumps", "4.0")


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "line"),
    [
        ("GET", "/api/videos/nothing", None, 404, "no video 'nothing'"),
        ("GET", "/api/videos/..%2F..%2Fetc%2Fpasswd/file", None, 404, "not found"),
        ("GET", "/page/..%2f..%2fserver.py", None, 404, "not found"),
        ("GET", "/nothing", None, 404, "GET /nothing: not found"),
        ("PUT", "/api/videos", b"", 405, "method not allowed"),
        ("POST", "/api/search", b"\x80\x81", 422, "expected JSON in UTF-8"),
        ("POST", "/api/search", {"queries": []}, 422, "queries: "),
        ("POST", "/api/search", {"queries": ["  "]}, 422, "queries.0: "),
        ("POST", "/api/search", {"queries": ["a"], "tops": 3}, 422, "tops: "),
        ("POST", "/api/search", {"queries": ["a"], "top": 0}, 422, "top: "),
        ("POST", "/api/search", {"queries": ["x" * 1001]}, 422, "queries.0: "),
        ("POST", "/api/search", b"{not json", 422, "JSON"),
        ("POST", "/api/search", b"x" * 2_000_000, 413, "1,048,576 bytes"),
        ("POST", "/api/export", {"format": "exe", "moments": []}, 422, "format: "),
        ("POST", "/api/videos?name=a.mp4", b"text", 422, "a.mp4: not a readable video"),
        ("POST", "/api/videos?name=a.mp4", b"", 422, "a.mp4: the file is empty"),
        ("GET", "/api/videos/VID/thumbnail?at=nan", None, 422, "query.at: "),
        ("DELETE", "/api/videos/VID", None, 409, "is served from a folder"),
    ],
)
def test_a_fault_is_one_line(
    server: Running, vid: str, method, path, content, status, line
) -> None:
    reply = server.ask(method, path.replace("VID", vid), content)
    assert reply.status == status, reply.body
    assert line in reply.error


def test_a_refused_method_names_those_allowed(server: Running) -> None:
    assert server.ask("PUT", "/api/videos", b"").headers["Allow"] == "GET"


def test_an_upload_that_states_too_many_bytes_is_refused_unread(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = (
            f"POST /api/videos HTTP/1.1\r\nHost: {host}\r\nContent-Length: {MOST_BYTES + 1}\r\n\r\n"
        )
        client.sendall(head.encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_broken_upload_leaves_nothing(server: Running, film: Path) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    folder = server.service.library.folder
    before = set(os.listdir(folder))
    with socket.create_connection((host, int(port)), timeout=10) as client:
        head = f"POST /api/videos HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9999\r\n\r\n"
        client.sendall(head.encode() + b"half")
        until = time.monotonic() + 10
        while set(os.listdir(folder)) == before and time.monotonic() < until:
            time.sleep(0.01)
    until = time.monotonic() + 10
    while set(os.listdir(folder)) != before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(os.listdir(folder)) == before
    assert server.upload(film)["state"] == "ready"  # its place among uploads was given back


def test_a_video_that_is_not_encoded_yet_is_a_conflict(
    one_grounder: Grounder, film: Path, tmp_path: Path
) -> None:
    with running(one_grounder, tmp_path, {"film.mp4": film}) as server:
        [video] = server.service.library.videos()
        server.service.encodings._jobs[video.id] = type(server.service.encodings.of(video.id))(
            "encoding", 0.43
        )
        reply = ground(server, video.id, ["a"])
        assert (reply.status, reply.error.split(";")[0]) == (
            409,
            "film.mp4: is being encoded (43%)",
        )


def test_metrics_count_requests_batches_and_videos(server: Running, vid: str) -> None:
    ground(server, vid, QUERIES)
    text = server.get("/metrics").body.decode()
    assert (
        'sdst_requests_total{method="POST",route="/api/videos/{vid}/ground",status="200"}' in text
    )
    assert 'sdst_batch_queries_count{kind="ground"}' in text
    assert 'sdst_videos{state="ready"}' in text
    assert "process_resident_memory_bytes" in text


def test_the_description_of_the_interface_has_every_route(server: Running) -> None:
    description = server.get("/openapi.json").json
    assert {"/api/videos", "/api/search", "/api/export", "/api/health", "/metrics"} <= set(
        description["paths"]
    )
    for path, methods in description["paths"].items():
        for method, route in methods.items():
            assert route["description"], f"{method} {path}"


def test_the_page_loads_nothing_from_elsewhere(server: Running) -> None:
    page = server.get("/")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    folder = Path(__file__).parents[2] / "sdst" / "serving" / "page"
    for file in folder.rglob("*.*"):
        text = file.read_text().replace("http://www.w3.org/", "")
        assert "http://" not in text, file
        assert "https://" not in text, file
        assert server.get(f"/page/{file.relative_to(folder)}").status == 200
