"""Videos in object storage are found and read as files are, here in fsspec's own memory."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from sdst.data.store.origins import ENDS, video_origins
from sdst.data.video_files import find_videos
from sdst.errors import InputError
from sdst.extraction.remote import as_place, find_anywhere, local_copy, origins_anywhere

CONTENTS = {"a": b"first", "b": b"x" * (3 * ENDS), "c": b""}


@pytest.fixture
def bucket() -> str:
    """The URL of a folder with three videos and a text."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name, content in CONTENTS.items():
        memory.pipe_file(f"/bucket/films/{name}.mp4", content)
    memory.pipe_file("/bucket/films/readme.txt", b"")
    return "memory://bucket/films"


def test_a_folder_a_file_and_a_list_name_the_same_objects(bucket: str, tmp_path: Path) -> None:
    expected = {name: f"memory:///bucket/films/{name}.mp4" for name in CONTENTS}
    assert find_anywhere([as_place(bucket)]) == expected
    (tmp_path / "own.mp4").write_bytes(b"own")
    lines = [f"{bucket}/a.mp4", "own.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = find_anywhere([as_place(str(tmp_path / "list.txt"))])
    assert found == {"a": lines[0], "own": tmp_path / "own.mp4"}


def test_a_copy_of_a_file_has_its_origin(bucket: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.mp4" for name in CONTENTS}
    for name, content in CONTENTS.items():
        files[name].write_bytes(content)
    expected = video_origins(files)
    assert origins_anywhere(find_anywhere([bucket])) == expected
    mixed = {"b": f"{bucket}/b.mp4", "a": files["a"], "none": f"{bucket}/none.mp4"}
    assert origins_anywhere(mixed) == {"b": expected["b"], "a": expected["a"], "none": None}


def test_an_object_is_read_from_a_copy_that_goes(bucket: str, tmp_path: Path) -> None:
    with local_copy(f"{bucket}/b.mp4") as path:
        assert path.name == "b.mp4" and path.read_bytes() == CONTENTS["b"]
    assert not path.parent.exists()
    own = tmp_path / "own.mp4"
    with local_copy(own) as path:
        assert path == own


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://bucket/none", r"memory://bucket/none: no video there"),
        ("nothing://bucket/a.mp4", r"nothing://bucket/a\.mp4: .*nothing"),
    ],
)
def test_what_is_no_video_is_named(bucket: str, url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_anywhere([url])
    with pytest.raises(InputError, match="cannot be read"), local_copy(url):
        pass


def test_urls_need_what_reads_them(bucket: str) -> None:
    with pytest.raises(InputError, match=r"films: is a URL; give --ray as well"):
        find_anywhere([bucket], remote=False)


def test_one_id_twice_is_refused(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"own")
    with pytest.raises(InputError, match="have the same id a"):
        find_anywhere([bucket, tmp_path])


def test_files_are_found_as_without_urls(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"own")
    (tmp_path / "list.txt").write_text("a.mp4\nmissing.mp4")
    given = [tmp_path / "list.txt", tmp_path / "a.mp4", tmp_path / ".." / tmp_path.name / "a.mp4"]
    expected = {"a": tmp_path / "a.mp4", "missing": tmp_path / "missing.mp4"}
    assert find_anywhere(given) == find_videos(given) == expected
