"""The rendered demo dataset as a whole."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import av
import numpy as np
import pytest

import sdst.demo as demo
from sdst.data.annotations import read_annotations
from sdst.demo import DemoSize, prepare_demo
from sdst.demo.render import FPS, FRAME_SIZE
from sdst.errors import InputError

TINY = DemoSize(train=2, val=1, test=1)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_demo(tmp_path_factory.mktemp("demo") / "demo", TINY, threads=1)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_two_threads_write_the_same_bytes_as_one(rendered: Path, tmp_path: Path) -> None:
    again = prepare_demo(tmp_path / "demo", TINY, threads=2)
    assert digests(again) == digests(rendered)


def test_a_script_without_a_main_guard_prepares_it(rendered: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from sdst.demo import DemoSize, prepare_demo\n"
        "prepare_demo(Path('demo'), DemoSize(train=2, val=1, test=1))\n"
    )
    subprocess.run([sys.executable, script], cwd=tmp_path, check=True, timeout=120)
    assert digests(tmp_path / "demo") == digests(rendered)


def test_every_annotated_video_is_there_and_no_other(rendered: Path) -> None:
    named = {
        a.vid for s in ("train", "val", "test") for a in read_annotations(rendered / f"{s}.jsonl")
    }
    assert named == {path.stem for path in (rendered / "videos").iterdir()}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_annotations_are_valid_and_complete(rendered: Path, split: str) -> None:
    for annotation in read_annotations(rendered / f"{split}.jsonl"):
        assert annotation.windows
        assert annotation.clip_ids == tuple(
            clip for start, end in annotation.windows for clip in range(int(start), int(end))
        )
        assert len(annotation.saliency) == len(annotation.clip_ids)
        assert all(len(marks) == 3 for marks in annotation.saliency)


def test_videos_are_h264_of_the_annotated_duration(rendered: Path) -> None:
    for annotation in read_annotations(rendered / "train.jsonl"):
        with av.open(rendered / "videos" / f"{annotation.vid}.mp4") as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert float(stream.duration * stream.time_base) == annotation.duration
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(decoded) == annotation.duration * FPS
        assert decoded[0].shape == (FRAME_SIZE, FRAME_SIZE, 3)
        assert np.std(decoded[len(decoded) // 2]) > 5


def test_a_finished_folder_is_used_again(rendered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_render", lambda *_: pytest.fail("rendered again"))
    assert prepare_demo(rendered, TINY) == rendered


def test_another_recipe_replaces_the_folder(rendered: Path, tmp_path: Path) -> None:
    root = prepare_demo(tmp_path / "demo", DemoSize(train=1, val=1, test=1), threads=1)
    prepare_demo(root, TINY, threads=1)
    assert digests(root) == digests(rendered)


def test_of_two_at_once_one_renders_and_the_other_waits(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    calls, render, both = [], demo._render, Barrier(2, timeout=60)

    def counted(*arguments: object) -> None:
        calls.append(arguments)
        render(*arguments)

    def prepare(_: int) -> Path:
        both.wait()
        return prepare_demo(tmp_path / "demo", TINY, threads=1)

    monkeypatch.setattr(demo, "_render", counted)
    with ThreadPoolExecutor(2) as pool:
        [one, other] = pool.map(prepare, range(2))
    assert len(calls) == 1
    assert "another process is rendering" in caplog.text
    assert one == other and digests(one) == digests(rendered)


@pytest.mark.parametrize("name", ["holiday.mp4", "recipe.json"])
def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"cake": "flour"}')
    with pytest.raises(InputError, match=r"something else than the demo.*--data.dataset custom"):
        prepare_demo(tmp_path, TINY, threads=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_interrupted_render_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(jobs: object, **_: object) -> Iterator[None]:
        yield None
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "progress_bar", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_demo(tmp_path / "demo", TINY, threads=1)
    assert list(tmp_path.iterdir()) == []
