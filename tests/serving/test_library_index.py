"""A search over an index looks into the likeliest videos of a library, and misses no new one."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("lancedb", reason="an index needs the extra `index`")

from sdst import Grounder
from sdst.errors import InputError
from sdst.index import main as index
from sdst.indexing.build import exclusive
from sdst.indexing.clip_index import ClipTable
from sdst.serving import library_index, service
from sdst.serving.library_index import LibraryIndex
from tests.serving.running import Running, running
from tests.untrained import QUERIES


@pytest.fixture
def shelf(films: dict[str, Path]) -> dict[str, Path]:
    """Three videos in a folder, by their names."""
    films.pop("noise").unlink()
    return {path.name: path for path in films.values()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture(autouse=True)
def one_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (library_index, service):
        monkeypatch.setattr(module, "CANDIDATES", 1)


def settle(server: Running) -> None:
    for video in server.service.library.videos():
        server.settled(video.id)


def search(server: Running, query: str = QUERIES[0]) -> dict:
    [answer] = server.ask("POST", "/api/search", {"queries": [query], "top": 50}).json["answers"]
    return answer


def indexed(place: Path) -> set[str]:
    return set(ClipTable.open(place).videos())


def test_the_video_with_the_nearest_clip_is_looked_into(
    one_grounder: Grounder, shelf: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    [text] = one_grounder.backbone.encode_text([QUERIES[0]])
    embeddings = {name: one_grounder.encoder.encode(path).embedding for name, path in shelf.items()}
    cosines = {
        name: np.max(np.asarray(embedding) @ text.embedding.numpy())
        for name, embedding in embeddings.items()
    }
    nearest = max(cosines, key=cosines.__getitem__)
    with running(one_grounder, tmp_path / "library", shelf, index=place) as server:
        settle(server)
        answer = search(server)
        assert {moment["name"] for moment in answer["moments"]} == {nearest}
        assert (answer["searched"], answer["encoded"], answer["skipped"]) == (1, 3, 0)
        assert indexed(place) == {video.id for video in server.service.library.videos()}


def test_uploads_come_into_the_index_and_go(
    one_grounder: Grounder, shelf: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    with running(one_grounder, tmp_path / "library", index=place) as server:
        kept, deleted = (server.upload(path)["id"] for path in list(shelf.values())[:2])
        assert indexed(place) == {kept, deleted}
        server.ask("DELETE", f"/api/videos/{deleted}")
        assert indexed(place) == {kept}
    with running(one_grounder, tmp_path / "library", shelf, index=place) as server:
        settle(server)
        assert len(indexed(place)) == 4 and kept in indexed(place)
        assert search(server)["searched"] == 1


def test_a_video_that_cannot_be_indexed_is_always_looked_into(
    one_grounder: Grounder,
    shelf: dict[str, Path],
    place: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, *others = shelf.values()
    with running(one_grounder, tmp_path / "library", index=place) as server:
        ids = {server.upload(path)["id"] for path in others}
        with exclusive(place), caplog.at_level(logging.WARNING, "sdst.serving"):
            left_out = server.upload(first)["id"]
        answer = search(server)
    assert "film0.mp4 is not indexed" in caplog.text
    assert indexed(place) == ids
    found = {moment["video"] for moment in answer["moments"]}
    assert left_out in found and len(found) == answer["searched"] == 2


def test_an_index_of_the_same_folder_is_taken_as_it_is(
    one_grounder: Grounder, shelf: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    videos = ["--videos", str(tmp_path / "films"), "--backbone", "demo", "--clip-length", "1"]
    assert index([*videos, "--output", str(place)]) == 0
    before = indexed(place)
    copy = tmp_path / "copies" / "film0.mp4"
    copy.parent.mkdir()
    shutil.copy(shelf["film0.mp4"], copy)
    files = {**shelf, "copies/film0.mp4": copy}
    with running(one_grounder, tmp_path / "library", files, index=place) as server:
        settle(server)
        answer = search(server)
        [new] = indexed(place) - before
        assert server.service.library.find(new).path.name == "film0.mp4"
    assert indexed(place) - {new} == before == {"film0", "film1", "film2"}
    assert (answer["searched"], answer["encoded"]) == (1, 4)


def test_an_index_of_other_features_is_refused(
    one_grounder: Grounder, shelf: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    videos = ["--videos", str(shelf["film0.mp4"]), "--backbone", "demo", "--clip-length", "2"]
    index([*videos, "--output", str(place)])
    with pytest.raises(InputError, match=r"features with clip_length 2\.0, expected 1\.0"):
        LibraryIndex(place, one_grounder.encoder)
