"""The command `serve`: what it refuses, how it starts and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

import pytest

from sdst.errors import InputError
from sdst.serve import main

pytest.importorskip("fastapi", reason="serving needs pip install 'sdst[serve]'")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--zero-shot"], "--zero-shot needs --backbone NAME"),
        (["--checkpoint", "x", "--clip-length", "2"], "--clip-length goes with --zero-shot"),
        (["--checkpoint", "x", "--port", "70000"], "--port 70000: expected 0 to 65535"),
        (["--checkpoint", "x", "--max-upload", "much"], "size 'much'"),
        (["--checkpoint", "x", "--videos", "nowhere"], "--videos nowhere: no such file or folder"),
        (["--checkpoint", "x", "--library", __file__], "is a file; expected a folder"),
        (["--checkpoint", "x", "--token-file", "nowhere"], "nowhere: cannot be read"),
        (["--checkpoint", "x", "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
        (["--checkpoint", "x", "--host", "192.0.2.1"], "no address of this machine"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options: list[str], line: str) -> None:
    with pytest.raises(InputError) as refused:
        main(options)
    assert line in str(refused.value)


def test_a_short_token_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SDST_TOKEN", "short")
    with pytest.raises(InputError, match="SDST_TOKEN: expected 16 or more characters"):
        main(["--checkpoint", "x", "--library", str(tmp_path)])


def test_a_port_in_use_is_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port {port}: another program uses it"):
            main(["--checkpoint", "x", "--port", str(port), "--library", str(tmp_path / "y")])
    assert not (tmp_path / "y").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("lancedb") is None, reason="an index needs the extra `index`")
def test_it_warns_serves_and_ends_on_a_signal(untrained: Path, film: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sdst.serve", "--checkpoint", str(untrained)]
    command += ["--library", str(tmp_path / "library"), "--videos", str(film)]
    command += ["--index", str(tmp_path / "index")]
    command += ["--host", "0.0.0.0", "--port", "0"]
    environment = os.environ | {"SDST_CACHE": str(tmp_path / "cache")}
    environment.pop("SDST_TOKEN", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.split()[0]
        assert "1 videos" not in line
        with urlopen(f"{url}/api/health", timeout=60) as reply:
            assert reply.read() == b'{"status":"ok"}'
        process.send_signal(signal.SIGTERM)
        out, fault = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ended\n")
    assert "whoever reaches this machine may ask, upload and delete" in fault
    assert "Traceback" not in fault
    assert (tmp_path / "index" / "clips.lance").is_dir()
