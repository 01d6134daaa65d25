"""Where there is no network, one line says so within seconds, and how to do without."""

from __future__ import annotations

import socket
import time
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from sdst.backbones import DEMO_BACKBONE, load_backbone
from sdst.errors import InputError
from sdst.hub.network import downloads, reachable


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub and no cache: an address that never answers."""
    import_module("sdst.backbones.openclip")  # its time does not count
    # TEST-NET-1 is routed nowhere: packets are lost, or refused at once.
    monkeypatch.setattr(constants, "ENDPOINT", "https://192.0.2.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "name", ["ViT-B-32:laion2b_s34b_b79k", "hf-hub:laion/none", "ViT-B-16-SigLIP:webli"]
)
def test_weights_that_cannot_be_fetched_are_one_line_at_once(silent_server, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(
        InputError, match=r"192\.0\.2\.1 cannot be reached.*/path/file\.safetensors"
    ):
        load_backbone(name, 4)
    assert time.monotonic() - began < 10  # 3 s on a machine that is not busy


def test_the_hubs_library_is_offline_in_the_block_alone(silent_server) -> None:
    with downloads() as online:
        assert not online and constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE and socket.getdefaulttimeout() is None


def test_what_answers_a_request_is_reached_also_by_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert not reachable(address)  # 501, as a server that is down behind its proxy

        server.RequestHandlerClass = SimpleHTTPRequestHandler
        assert reachable(address)
        server.shutdown()
    assert not reachable("http://127.0.0.1:9")


@pytest.mark.parametrize("as_proxy", [False, True])
def test_a_connection_that_is_never_answered_is_one_line_at_once(
    silent_server, monkeypatch: pytest.MonkeyPatch, as_proxy: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if as_proxy:
            monkeypatch.setenv("HTTPS_PROXY", address)
        else:
            monkeypatch.setattr(constants, "ENDPOINT", address)
        began = time.monotonic()
        with pytest.raises(InputError, match="cannot be reached"):
            load_backbone("ViT-B-32:laion2b_s34b_b79k", 4)
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("<html>", "is a web page"),
        ("", "is empty"),
    ],
)
def test_what_stands_for_weights_is_named(tmp_path: Path, content: str, reason: str) -> None:
    for file in DEMO_BACKBONE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "open_clip_model.safetensors").write_text(content)
    (tmp_path / "weights.pt").write_text(content)
    for name in (f"local-dir:{tmp_path}", f"ViT-B-32:{tmp_path}/weights.pt"):
        with pytest.raises(InputError, match=reason):
            load_backbone(name, 4)
