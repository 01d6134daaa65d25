"""Which files are videos, and whose: links, leftovers, and names that are spelled in two ways."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from sdst.data.video_files import dataset_videos, find_videos, near_misses
from sdst.errors import InputError

NAME = unicodedata.normalize("NFC", "caf\u00e9 \u00fc")
DECOMPOSED = unicodedata.normalize("NFD", NAME)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with a.mp4, one part of which is a link to another disk."""
    touch(tmp_path / "videos" / "a.mp4")
    touch(tmp_path / "disk2" / "b.mp4")
    (tmp_path / "videos" / "part2").symlink_to(tmp_path / "disk2")
    return tmp_path / "videos"


def test_links_to_folders_are_followed(videos: Path) -> None:
    assert find_videos([videos]) == {"a": videos / "a.mp4", "b": videos / "part2" / "b.mp4"}


def test_a_folder_of_links_alone_has_videos(videos: Path) -> None:
    (videos / "a.mp4").unlink()
    assert list(find_videos([videos])) == ["b"]


def test_a_link_that_leads_back_ends(videos: Path) -> None:
    (videos / "loop").symlink_to(videos)
    (videos.parent / "disk2" / "up").symlink_to(videos.parent)
    assert sorted(find_videos([videos])) == ["a", "b"]


def test_a_folder_that_two_links_lead_to_is_entered_once(videos: Path) -> None:
    (videos / "part3").symlink_to(videos.parent / "disk2")
    assert sorted(find_videos([videos])) == ["a", "b"]


def test_a_file_given_twice_is_one_video(videos: Path) -> None:
    assert list(find_videos([videos, videos / "a.mp4", videos / "part2"])) == ["a", "b"]


def test_a_dataset_is_searched_through_links(videos: Path) -> None:
    assert sorted(dataset_videos(videos, {"a", "b", "c"})) == ["a", "b"]


def test_what_macos_leaves_beside_files_is_no_video(videos: Path) -> None:
    for name in ("._a.mp4", ".DS_Store", "__MACOSX/._b.mp4"):
        touch(videos / name)
    assert sorted(find_videos([videos])) == ["a", "b"]


@pytest.mark.parametrize("name", ["x.mp4", "sub/x.mp4"])
def test_one_name_in_two_folders_is_refused_by_both_paths(videos: Path, name: str) -> None:
    first, second = touch(videos / "0" / "x.mp4"), touch(videos / "1" / name)
    for search in (lambda: find_videos([videos]), lambda: dataset_videos(videos, {"x"})):
        with pytest.raises(InputError, match="have the same id x; rename or remove one") as caught:
            search()
        assert str(first) in str(caught.value)
        assert str(second) in str(caught.value)


@pytest.mark.parametrize(("there", "asked"), [(NAME, DECOMPOSED), (DECOMPOSED, NAME)])
def test_a_name_is_found_in_another_unicode_form(tmp_path: Path, there: str, asked: str) -> None:
    file = touch(tmp_path / f"{there}.mp4")
    assert dataset_videos(tmp_path, {asked}) == {asked: file}
    assert find_videos([tmp_path / f"{asked}.mp4"]) == {NAME: file}
    (tmp_path / "list.txt").write_text(f"{asked}.mp4\n", encoding="utf-8")
    assert find_videos([tmp_path / "list.txt"]) == {NAME: file}


def test_two_unicode_forms_of_one_name_are_one_id(tmp_path: Path) -> None:
    for name in (NAME, DECOMPOSED):
        touch(tmp_path / f"{name}.mp4")
    with pytest.raises(InputError, match="have the same id"):
        find_videos([tmp_path])


@pytest.mark.parametrize("ending", ["MP4", "Mkv", "webm"])
def test_any_ending_in_any_case_is_found(tmp_path: Path, ending: str) -> None:
    file = touch(tmp_path / f"a.{ending}")
    assert dataset_videos(tmp_path, {"a"}) == {"a": file}
    assert dataset_videos(tmp_path, {f"a.{ending}"}) == {f"a.{ending}": file}


def test_a_folder_with_the_name_of_a_video_is_searched(tmp_path: Path) -> None:
    file = touch(tmp_path / "a.mp4" / "b.mp4")
    assert find_videos([tmp_path]) == {"b": file}


@pytest.mark.parametrize("name", ["A_b.mp4", "a b.mp4", "a-b.MPEG4", "a-b"])
def test_a_name_that_is_nearly_it_is_named(tmp_path: Path, name: str) -> None:
    file = touch(tmp_path / name)
    assert dataset_videos(tmp_path, {"a-b"}) == {}
    assert near_misses(tmp_path, ["a-b", "c"]) == [f"{file} for a-b"]


def test_a_missing_file_names_the_one_there(tmp_path: Path) -> None:
    touch(tmp_path / "Film.MKV")
    with pytest.raises(InputError, match=r"no such file or folder; there is Film\.MKV"):
        find_videos([tmp_path / "film.mp4"])
