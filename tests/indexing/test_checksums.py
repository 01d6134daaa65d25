"""Damage of an index's files is noticed before LanceDB reads them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.indexing.checksums import CHECKSUMS, REWRITTEN, check_files, write_checksums


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of two files, whose checksums are noted."""
    folder = tmp_path / "clips.lance"
    (folder / "data").mkdir(parents=True)
    (folder / "small").write_bytes(b"manifest")
    (folder / "data" / "large").write_bytes(bytes(1000))
    write_checksums(folder, 7)
    return folder


def test_whole_files_give_the_version(table: Path) -> None:
    assert check_files(table) == 7
    (table / REWRITTEN).write_text("8")
    (table / "later").touch()
    (table / "small").unlink()  # LanceDB removes old versions
    assert check_files(table) == 7


@pytest.mark.parametrize("content", [b"manifesT", b"manifes", b""])
def test_a_damaged_file_is_named(table: Path, content: bytes) -> None:
    (table / "small").write_bytes(content)
    with pytest.raises(InputError, match=r"small: damaged .*; remove .*clips\.lance and run sdst"):
        check_files(table)
    write_checksums(table, 8)
    with pytest.raises(InputError, match="small: damaged"):
        check_files(table)


def test_of_large_files_the_size_is_compared(table: Path) -> None:
    (table / "data" / "large").write_bytes(bytes(999) + b"1")
    assert check_files(table, most=500) == 7
    with pytest.raises(InputError, match="large: damaged"):
        check_files(table, most=2000)
    (table / "data" / "large").write_bytes(bytes(999))
    with pytest.raises(InputError, match="large: damaged"):
        check_files(table, most=500)


def test_what_is_no_file_is_not_opened(table: Path) -> None:
    os.mkfifo(table / "data" / "new")
    with pytest.raises(InputError, match=r"data/new: is no regular file"):
        check_files(table)
    (table / "data" / "new").unlink()
    (table / "_indices").symlink_to(table.parent)
    with pytest.raises(InputError, match=r"_indices: is no regular file"):
        check_files(table)


@pytest.mark.parametrize("content", ['{"files": 3, "version": 1}', '{"version": 1}', "{", "[]"])
def test_damaged_checksums_are_refused(table: Path, content: str) -> None:
    (table.parent / CHECKSUMS).write_text(content)
    with pytest.raises(InputError, match=rf"{CHECKSUMS}: .*; remove .*clips\.lance and run"):
        check_files(table)


def test_checksums_of_a_removed_table_are_no_hindrance(table: Path) -> None:
    table.rename(table.parent / "elsewhere")
    assert check_files(table) == 0
    assert not (table.parent / CHECKSUMS).exists()
