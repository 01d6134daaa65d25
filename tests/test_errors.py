"""One place words what the system and libraries say, and lets nothing printed lose work."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdst.errors import InputError, explain, naming, reading, refuse_all, run


def end_of(capsys, error: BaseException | None) -> tuple[int | None, str]:
    """Exit code and stderr of a command whose `main` raises `error`."""

    def main() -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a.json: wrong"), "a.json: wrong"),
        (InputError("a\x1b[31m\nb: wrong"), r"a\x1b[31m b: wrong"),
        (InputError("caf\udce9.json: wrong"), r"caf\udce9.json: wrong"),
        (OSError(errno.EACCES, "no", "/x/y"), "/x/y: Permission denied"),
        (OSError(errno.EIO, "no"), "the system refuses: Input/output error"),
        (MemoryError("Unable to allocate 10 GiB"), "out of memory (Unable to allocate 10 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (
            InputError("Caught.\nOriginal Traceback (..):\n  File\nsdst.errors.InputError: a: b\n"),
            "a: b",
        ),
    ],
)
def test_what_a_user_can_act_on_is_one_line_and_exit_code_2(capsys, error, line: str) -> None:
    code, printed = end_of(capsys, error)
    assert code == 2
    assert printed.startswith(f"error: {line}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("shapes"), TypeError("None")])
def test_a_bug_of_ours_keeps_its_traceback(error: Exception) -> None:
    assert explain(error) is None
    with pytest.raises(type(error)):
        run(lambda: (_ for _ in ()).throw(error))


def test_the_code_of_main_and_of_an_interrupt_pass_through(capsys) -> None:
    assert end_of(capsys, None) == (None, "")
    assert end_of(capsys, KeyboardInterrupt()) == (130, "interrupted\n")


def test_a_library_in_rust_has_the_system_error_in_its_message() -> None:
    with pytest.raises(OSError, match="No space left") as raised, naming("out"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    assert explain(raised.value).startswith("out: No space left on device; make room")


def test_a_name_that_an_error_has_stays() -> None:
    with pytest.raises(OSError) as raised, naming("folder"):
        Path("/no/such/file").read_text()
    assert raised.value.filename == "/no/such/file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n <!doctype HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"<?xml version='1.0'?>\n<Error><Code>AccessDenied", "server's error message"),
        (b"\x93NUMPY", r"cannot be read \(boom\); get it again"),
    ],
)
def test_a_file_that_a_library_cannot_read_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{path}: .*{reason}"), reading(path, "get it again"):
        raise NotImplementedError("boom")


def test_many_faults_are_named_up_to_a_number_and_counted() -> None:
    refuse_all([], "files")
    with pytest.raises(InputError, match=r"^a: wrong$"):
        refuse_all(["a: wrong"], "files")
    with pytest.raises(InputError, match=r"^1,200 files: 0; 1; .*; 9; and 1,190 more$"):
        refuse_all(map(str, range(1200)), "files")


PRINTING = """
import sys
from sdst.errors import run
def main():
    for _ in range(9999):
        print("白いブロック caf\\udce9 \\U0001f600")
    sys.stderr.write("é" * 9)
    open(sys.argv[1], "w").write("done")
run(main)
"""


def printing(tmp_path: Path, shell: str, **environment: str) -> subprocess.CompletedProcess:
    command = f"\"{sys.executable}\" -c '{PRINTING}' {tmp_path}/done {shell}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "cp1252"])
def test_characters_that_the_terminal_lacks_are_escaped(tmp_path: Path, encoding: str) -> None:
    done = printing(tmp_path, "", PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert rb"caf\udce9" in done.stdout
    assert (rb"\u767d" in done.stdout) == (encoding != "utf-8")
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("shell", "code", "stderr"),
    [
        ("| head -1", 0, b""),
        (">&-", 0, b""),
        (">&- 2>&-", 0, b""),
        ("2>/dev/full", 0, b""),
        (">/dev/full", 2, b"error: standard output: No space left on device\n"),
    ],
)
def test_output_that_goes_nowhere_loses_no_work(
    tmp_path: Path, shell: str, code: int, stderr: bytes
) -> None:
    done = printing(tmp_path, shell)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert done.stderr.replace("é".encode(), b"") == stderr
    assert (tmp_path / "done").read_text() == "done"


def test_sigterm_ends_a_command_as_ctrl_c_does() -> None:
    code = """
import time
from sdst.errors import run
def work():
    print("ready", flush=True)
    time.sleep(60)
run(work)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 130
