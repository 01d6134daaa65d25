"""Fixtures that several packages share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from sdst import Grounder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, sample predictions and a video, where it is present."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SDST_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set SDST_SHARED_DATA to the folder of real data")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have it: a few rendered videos and three annotation files."""
    from sdst.demo import DemoSize, prepare_demo

    root = tmp_path_factory.mktemp("dataset") / "tiny"
    return prepare_demo(root, DemoSize(train=6, val=2, test=2), threads=1)


@pytest.fixture(scope="session")
def tiny_options(tiny_dataset: Path) -> list[str]:
    """Command-line options of a training run on `tiny_dataset` that takes seconds."""
    options = {
        "data.dataset": "custom",
        "data.root": tiny_dataset,
        "model.width": 32,
        "model.queries": 5,
        "train.epochs": 3,
        "train.batch_size": 8,
        "train.warmup_steps": 2,
        "train.validate_every": 1,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished training run on `tiny_dataset`."""
    from sdst.train import main

    output = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["--output", str(output), *tiny_options]) == 0
    return output


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A rendered video of the demo."""
    from sdst.demo.render import write_video
    from sdst.demo.scenes import plan_scene

    path = tmp_path_factory.mktemp("film") / "film.mp4"
    write_video(plan_scene("val", 0, 0), path)
    return path


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server for the files in `tmp_path`."""
    handler = partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def films(tmp_path: Path) -> dict[str, Path]:
    """Three videos and one that cannot be read, in a folder."""
    from sdst.demo.render import write_video
    from sdst.demo.scenes import plan_scene

    folder = tmp_path / "films"
    folder.mkdir()
    for i in range(3):
        write_video(plan_scene("val", i, 0), folder / f"film{i}.mp4")
    (folder / "noise.mp4").write_bytes(os.urandom(2000))
    return {path.stem: path for path in sorted(folder.iterdir())}


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small untrained model on the demo's backbone."""
    from tests.untrained import small_config, write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("ground") / "run", small_config())


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the encoded videos of this test alone are kept."""
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "grounding"


@pytest.fixture
def grounder(untrained: Path, own_cache: Path) -> Grounder:
    """Answers with the untrained model."""
    from sdst import Grounder

    return Grounder(untrained, device="cpu")
