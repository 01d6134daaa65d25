from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.serving.library import Library, Video, shown_name
from sdst.serving.refusals import Refused
from tests.serving.running import MOST_BYTES


def receive(library: Library, content: bytes, name: str = "film.mp4") -> Video:
    with library.receive(name) as upload:
        upload.write(content)
        return upload.finish()


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(tmp_path / "library", {}, MOST_BYTES)


def test_an_upload_survives_a_restart(library: Library, film: Path) -> None:
    video = receive(library, film.read_bytes())
    assert video.path.read_bytes() == film.read_bytes()
    library.close()
    again = Library(library.folder, {}, MOST_BYTES)
    assert again.find(video.id) == video


def test_what_is_no_video_leaves_nothing(library: Library) -> None:
    with pytest.raises(Refused, match=r"^notes\.mp4: not a readable video"):
        receive(library, b"these are notes", "notes.mp4")
    assert len(library) == 0
    assert not list(library.folder.iterdir())


@pytest.mark.parametrize("kind", ["playlist", "picture", "page"])
def test_what_would_lead_elsewhere_is_refused(library: Library, film: Path, kind: str) -> None:
    content = {
        "playlist": f"#EXTM3U\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n".encode(),
        "picture": Path(__file__).parents[2].joinpath("docs/answer.png").read_bytes(),
        "page": b"<!doctype html><script>alert(1)</script>",
    }[kind]
    with pytest.raises(Refused) as refused:
        receive(library, content, "x.mp4")
    assert str(library.folder) not in str(refused.value)
    assert str(refused.value).startswith("x.mp4: ")


def test_an_upload_that_is_too_large_ends_and_leaves_nothing(tmp_path: Path, film: Path) -> None:
    library = Library(tmp_path / "library", {}, max_bytes=1000)
    with pytest.raises(Refused, match="the most that is taken here") as refused:
        receive(library, film.read_bytes())
    assert refused.value.status == 413
    assert not list(library.folder.iterdir())


def test_a_killed_upload_is_removed_at_the_next_start(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from sdst.serving.library import Library
with Library(Path(sys.argv[1]), {}, 10**7).receive("x.mp4") as upload:
    upload.write(b"half of it")
    os._exit(9)
"""
    folder = tmp_path / "library"
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == 9
    assert list(folder.iterdir())
    library = Library(folder, {}, MOST_BYTES)
    assert not list(folder.iterdir())
    assert len(library) == 0


def test_a_second_server_is_refused(library: Library) -> None:
    with pytest.raises(InputError, match="another server uses it"):
        Library(library.folder, {}, MOST_BYTES)


def test_a_removed_video_is_gone_with_its_folder(library: Library, film: Path) -> None:
    video = receive(library, film.read_bytes())
    library.remove(video.id)
    assert not list(library.folder.iterdir())
    with pytest.raises(Refused, match="no video"):
        library.find(video.id)


def test_a_video_whose_folder_was_deleted_by_hand_can_be_removed(library, film: Path) -> None:
    video = receive(library, film.read_bytes())
    shutil.rmtree(library.folder / video.id)
    library.remove(video.id)
    assert len(library) == 0


def test_files_of_others_are_served_and_not_removed(tmp_path: Path, film: Path) -> None:
    library = Library(tmp_path / "library", {"a/film.mp4": film}, MOST_BYTES)
    [video] = library.videos()
    assert (video.name, video.path, video.removable) == ("a/film.mp4", film, False)
    with pytest.raises(Refused, match="is served from a folder"):
        library.remove(video.id)
    assert film.is_file()


@pytest.mark.parametrize(
    "damage",
    [
        lambda about: about | {"path": "../../../etc/passwd"},
        lambda about: about | {"path": "missing.mp4"},
        lambda about: {"name": "half"},
        lambda about: [1, 2],
    ],
)
def test_a_damaged_entry_is_left_out(library: Library, film: Path, caplog, damage) -> None:
    kept, damaged = (receive(library, film.read_bytes()) for _ in range(2))
    about = library.folder / damaged.id / "video.json"
    about.write_text(json.dumps(damage(json.loads(about.read_text()))))
    library.close()
    again = Library(library.folder, {}, MOST_BYTES)
    assert [video.id for video in again.videos()] == [kept.id]
    assert damaged.id in caplog.text


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="--library"):
        Library(tmp_path, {}, MOST_BYTES)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\a.mp4", "a.mp4"),
        ("a\x00\x1b[31m.mp4", "a[31m.mp4"),
        ("", "video"),
        ("x" * 300 + ".mp4", "x" * 196 + ".mp4"),
    ],
)
def test_a_name_is_only_shown(given: str, shown: str) -> None:
    assert shown_name(given) == shown
