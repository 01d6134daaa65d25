"""A server on the untrained model, shared by tests that leave its library as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="serving needs pip install 'sdst[serve]'")

from sdst import Grounder
from tests.serving.running import Running, running


@pytest.fixture(scope="package")
def one_grounder(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounder]:
    with pytest.MonkeyPatch.context() as patches:
        patches.setenv("SDST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Grounder(untrained, device="cpu")


@pytest.fixture(scope="package")
def server(
    one_grounder: Grounder, film: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """Serves `film` from its folder; it is encoded."""
    with running(one_grounder, tmp_path_factory.mktemp("library"), {"film.mp4": film}) as server:
        server.settled(server.service.library.videos()[0].id)
        yield server


@pytest.fixture
def vid(server: Running) -> str:
    """The id of `film`."""
    return next(video.id for video in server.service.library.videos() if not video.removable)
