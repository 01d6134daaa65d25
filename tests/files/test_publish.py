"""Files and folders appear whole or not at all, and leftovers of killed processes go."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from sdst.config import load_config
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from sdst.files.publish import (
    is_locked,
    own_file,
    publish,
    remove_leftovers,
    replace_text,
    replacing,
    scratch_folder,
)
from sdst.training.run_folder import RunFolder
from tests.features import META, text_features

HOLD = """
import sys, time
from pathlib import Path
from sdst.files.publish import replacing, scratch_folder
make = {"file": replacing, "folder": scratch_folder}[sys.argv[1]]
with make(Path(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(60)
"""


def hold(kind: str, path: Path) -> subprocess.Popen:
    """A process that is writing at `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    for text in ("old", "new"):
        replace_text(tmp_path / "made" / "file", text)
    assert (tmp_path / "made" / "file").read_text() == "new"
    assert names(tmp_path / "made") == ["file"]


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    replace_text(tmp_path / "file", "old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "file") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "file").read_text() == "old"
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path, kind: str) -> None:
    process = hold(kind, tmp_path / "thing")
    replace_text(tmp_path / "thing", "mine")
    assert len(names(tmp_path)) == 2, "a living process keeps what it writes"
    process.send_signal(signal.SIGKILL)
    process.wait()
    replace_text(tmp_path / "thing", "mine")
    assert names(tmp_path) == ["thing"]


def test_leftovers_of_any_name_are_told_from_other_hidden_files(tmp_path: Path) -> None:
    for name in (".a-0123abcd", ".b-00000000", ".git", ".notes-final", ".a-0123abcd.txt", "c"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".a-0123abcd.txt", ".git", ".notes-final", "c"]


def test_a_planted_link_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("years of work")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    replace_text(tmp_path / "link", "report")
    assert (tmp_path / "precious").read_text() == "years of work"
    assert not (tmp_path / "link").is_symlink()


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    replace_text(os.devnull, "nothing")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/report: cannot be written"):
        replace_text(tmp_path / "file" / "report", "text")


def test_a_folder_is_published_at_once(tmp_path: Path) -> None:
    with scratch_folder(tmp_path / "thing") as folder:
        (folder / "part").write_text("x")
        publish(folder, tmp_path / "thing")
    assert names(tmp_path) == ["thing"] and names(tmp_path / "thing") == ["part"]


def test_files_and_folders_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "file", "x")
        with scratch_folder(tmp_path / "folder") as folder:
            publish(folder, tmp_path / "folder")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]
    assert modes == [0o640, 0o750]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_is_no_file_of_ours_is_not_written_to(tmp_path: Path, kind: str, append: bool) -> None:
    path, precious = tmp_path / "journal", tmp_path / "precious"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(precious)
    if kind == "link":
        precious.write_text("mine")
    with pytest.raises(InputError, match=str(path)):
        own_file(path, append)
    assert not precious.exists() or precious.read_text() == "mine"


def test_an_own_file_is_written_where_it_ends(tmp_path: Path) -> None:
    for text in (b"a", b"b"):
        with own_file(tmp_path / "journal", append=True) as file:
            file.write(text)
            file.seek(0)
            assert file.read().endswith(text)
    assert (tmp_path / "journal").read_text() == "ab"


def test_without_locks_nothing_waits_and_nobody_is_said_to_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on NFS without its daemon."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    for _ in range(2):
        with scratch_folder(tmp_path / "store") as building:
            (building / "file").touch()
            assert not is_locked(building)
    with closing(RunFolder(tmp_path / "run")) as one, closing(RunFolder(tmp_path / "run")) as other:
        one.begin(load_config("demo"))
        other.begin(load_config("demo"))
    for number in range(2):
        with FeatureWriter(tmp_path / str(number), META, resume=True) as writer:
            writer.add_query(0, *text_features(3))


def test_a_pipe_that_looks_like_a_leftover_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".store-01234567")
    remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
