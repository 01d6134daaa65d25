"""Ray's actors make the store of one process, byte for byte, also where one of them is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sdst.backbones import load_backbone
from sdst.errors import InputError
from sdst.extraction.pipeline import Report, extract_features
from sdst.extraction.ray_data import RayEngine
from sdst.extraction.settings import Settings

ray = pytest.importorskip("ray", reason="needs the extra `ray`")

SETTINGS = Settings(clip_length=1.0)
LAYERS = 2
ACTOR = "ray::MapWorker"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | Path]:
    """Six films, one of them by a URL, and one that cannot be read."""
    from sdst.demo.render import write_video
    from sdst.demo.scenes import plan_scene

    folder = tmp_path_factory.mktemp("films")
    for i in range(6):
        write_video(plan_scene("val", i, 0), folder / f"film{i}.mp4")
    (folder / "noise.mp4").write_bytes(os.urandom(2000))
    found: dict[str, str | Path] = {path.stem: path for path in sorted(folder.iterdir())}
    return {**found, "film2": f"file://{folder / 'film2.mp4'}"}


@pytest.fixture(scope="module")
def engine() -> RayEngine:
    """A cluster of several processes on this machine."""
    ray.init("local", num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield RayEngine("demo", LAYERS, SETTINGS)
    ray.shutdown()


def extract(videos: dict, out: Path, **options) -> Report:
    backbone, report = load_backbone("demo", LAYERS), Report()
    queries = {1: "a red ball", 2: "a blue square spins"}
    options = {"resume": True, "progress": False, **options}
    extract_features(videos, queries, backbone, out, SETTINGS, report=report, **options)
    return report


def actors() -> list[int]:
    """The processes of this process's cluster that encode."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(status.parent.name)
        try:
            if ACTOR in status.read_text() and os.getpid() in _ancestors(pid):
                found.append(pid)
        except OSError:  # it has ended
            continue
    return found


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        found.append(pid)
    return found


class OneIsKilled:
    """An engine of which an actor is killed when the first video has come."""

    def __init__(self, engine: RayEngine) -> None:
        self.engine, self.killed = engine, 0

    def origins(self, videos):
        return self.engine.origins(videos)

    def pieces(self, videos):
        for piece in self.engine.pieces(videos):
            yield piece
            if not self.killed:
                [*working] = actors()
                os.kill(working[-1], signal.SIGKILL)
                self.killed = working[-1]


@pytest.mark.slow
def test_a_killed_actor_changes_no_byte(videos, engine, tmp_path: Path) -> None:
    local = {vid: Path(str(place).removeprefix("file://")) for vid, place in videos.items()}
    expected = extract(local, tmp_path / "alone")
    killing = OneIsKilled(engine)
    report = extract(videos, tmp_path / "ray", engine=killing)
    assert killing.killed
    assert report == expected and len(report.skipped) == 1
    for file in (tmp_path / "alone").iterdir():
        assert (tmp_path / "ray" / file.name).read_bytes() == file.read_bytes(), file.name
    read = []
    engine.pieces = lambda videos: iter(read.append(list(videos)) or ())
    extract(videos, tmp_path / "ray", engine=engine)
    assert read == [["noise"]], "a finished video was read again"


def test_no_cluster_at_an_address_is_one_line(engine) -> None:
    ray.shutdown()
    with pytest.raises(InputError, match=r"^--ray ray://nowhere:1: [^\n]*$"):
        RayEngine("demo", LAYERS, SETTINGS, "ray://nowhere:1")
