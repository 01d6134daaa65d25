"""`sdst index`, and the search of what it leaves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.ground import main as ground
from sdst.index import main as index

pytest.importorskip("lancedb", reason="an index needs the extra `index`")

QUERY = ["--query", "the red square spins"]


@pytest.fixture
def videos(films: dict[str, Path], tmp_path: Path) -> list[str]:
    """Options that index the videos that can be read."""
    (tmp_path / "films" / "noise.mp4").unlink()
    encoding = ["--backbone", "demo", "--clip-length", "1"]
    return ["--videos", str(tmp_path / "films"), "--output", str(tmp_path / "index"), *encoding]


def found(untrained: Path, tmp_path: Path, *options: str) -> list[dict]:
    out = str(tmp_path / "found.json")
    assert (
        ground(["--checkpoint", str(untrained), *QUERY, "--top", "50", "--json", out, *options])
        == 0
    )
    return json.loads(Path(out).read_text())[0]["moments"]


def test_an_index_is_searched_as_the_store_it_is_of(untrained, videos, tmp_path, capsys) -> None:
    assert index(videos) == 0
    path = str(tmp_path / "index")
    assert f"{path}: 3 added, 0 unchanged\n{path}: 3 videos, " in capsys.readouterr().out
    store = str(tmp_path / "index" / "features")
    whole = found(untrained, tmp_path, "--store", store)
    assert found(untrained, tmp_path, "--index", path) == whole
    assert "best of 3 videos" in capsys.readouterr().out
    assert found(untrained, tmp_path, "--index", path, "--store", store) == whole
    one = found(untrained, tmp_path, "--index", path, "--candidates", "1")
    assert len({m["vid"] for m in one}) == 1 < len({m["vid"] for m in whole}) == 3


def test_videos_come_go_and_have_fields(untrained, videos, tmp_path, capsys) -> None:
    index(videos)
    shutil.copy(tmp_path / "films" / "film0.mp4", tmp_path / "films" / "film9.mp4")
    (tmp_path / "fields.csv").write_text("video,year\nfilm9.mp4,2020\nfilm8,1\n")
    capsys.readouterr()
    assert index([*videos, "--metadata", str(tmp_path / "fields.csv")]) == 0
    printed = capsys.readouterr()
    assert "1 added, 3 unchanged" in printed.out and "fields: year" in printed.out
    assert "--metadata: 1 video not in the index, the first film8" in printed.err
    options = ["--index", str(tmp_path / "index"), "--where", "year > 2000"]
    assert {moment["vid"] for moment in found(untrained, tmp_path, *options)} == {"film9"}
    assert index(["--output", str(tmp_path / "index"), "--remove", "film9"]) == 0
    assert found(untrained, tmp_path, *options) == []
    (tmp_path / "fields.csv").write_text("video,year\nfilm1,2030\n")
    fields = ["--metadata", str(tmp_path / "fields.csv")]
    assert index(["--output", str(tmp_path / "index"), *fields]) == 0
    assert {moment["vid"] for moment in found(untrained, tmp_path, *options)} == {"film1"}


def test_unreadable_videos_are_left_out(videos, tmp_path, capsys) -> None:
    (tmp_path / "films" / "bad.mp4").write_bytes(b"no video")
    assert index(videos) == 1
    printed = capsys.readouterr()
    assert "3 added" in printed.out and "bad.mp4" in printed.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--output"),
        (["--output", "x", "--videos", "a", "--store", "b"], "--videos and --store do not go"),
        (["--output", "x", "--remove", "a", "--metadata", "b"], "--remove and --metadata do not"),
        (["--output", "x", "--videos", "a"], "--videos needs --backbone NAME"),
        (["--output", "x", "--store", "a", "--layers", "2"], "--layers goes with --videos"),
        (["--output", "s3://x", "--videos", "a", "--backbone", "demo"], "kept in a folder"),
        (["--output", "x", "--metadata", "m.csv"], "--metadata: the features that x was made of"),
        (["--output", "nothing"], "nothing: no index there; make one with sdst.index"),
        (["--output", "x", "--store", "nothing"], "--store nothing: no feature store there"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        index(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "a = 1", "--store", "x"], "--where goes with --index"),
        (["--candidates", "3", "--video", "x"], "--candidates goes with --index"),
        (["--index", "x", "--video", "x"], "give one of --video FILE"),
        (["--index", "nothing"], "nothing: no index there"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ground(["--checkpoint", "x", *QUERY, *options])
