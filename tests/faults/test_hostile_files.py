"""Every command on every kind of bad file: exit code 2, and one line that names the file."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from sdst.backbones import DEMO_BACKBONE
from sdst.errors import run
from tests.faults.good_files import prepare

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def page(path: Path) -> None:
    path.write_text("<!DOCTYPE html>\n<html><body>403 Forbidden</body></html>")


def pointer(path: Path) -> None:
    path.write_text(LFS)


def utf_16(path: Path) -> None:
    path.write_bytes(path.read_bytes().decode("utf-8", "replace").encode("utf-16"))


def latin_1(path: Path) -> None:
    path.write_bytes(b'{"caf\xe9": 1}\n' + path.read_bytes())


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def digits(path: Path) -> None:
    path.write_text('{"qid": ' + 5000 * "9")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 20)


def repeated(path: Path) -> None:
    path.write_text('{"data": 1, "data": 2}')


FAULTS = [
    *(missing, empty, folder, pipe, device, loop, page, pointer),
    *(utf_16, latin_1, deep, digits, noise, repeated),
]
COMMANDS = {
    "evaluate, predictions": (
        "predictions.jsonl",
        "evaluate --predictions {} --annotations {root}/val.jsonl",
    ),
    "evaluate, annotations": (
        "val.jsonl",
        "evaluate --predictions {root}/predictions.jsonl --annotations {}",
    ),
    "evaluate, checkpoint": ("run/config.yaml", "evaluate --checkpoint {root}/run"),
    "inspect": ("train.jsonl", "inspect --annotations {}"),
    "inspect, a dataset": (
        "features/train.jsonl",
        "inspect --config {root}/features.yaml --root {root}/features",
    ),
    "ground, queries": (
        "queries.txt",
        "ground --checkpoint {root}/run --video {root}/film.mp4 --queries {}",
    ),
    "ground, video": ("film.mp4", "ground --checkpoint {root}/run --video {} --query x"),
    "ground, checkpoint": (
        "run/config.yaml",
        "ground --checkpoint {root}/run --video {root}/film.mp4 --query x",
    ),
    "extract, annotations": (
        "train.jsonl",
        "extract --backbone demo --videos {root}/film.mp4 --annotations {} --output {root}/new",
    ),
    "convert, features": (
        "features/clip/v3.npz",
        "convert --config {root}/features.yaml --data.root {root}/features",
    ),
    "convert, annotations": (
        "features/train.jsonl",
        "convert --config {root}/features.yaml --data.root {root}/features",
    ),
    "convert, store": ("store/index.json", "convert --store {root}/store --verify"),
    "train, config": ("config.yaml", "train --config {} --output {root}/new"),
    "info, config": ("config.yaml", "info --config {}"),
}
# What the fault leaves a good file for the command.
HARMLESS = {
    ("ground, queries", page.__name__): "lines of text are queries",
    ("ground, queries", pointer.__name__): "lines of text are queries",
    ("ground, queries", deep.__name__): "lines of text are queries",
    ("ground, queries", digits.__name__): "lines of text are queries",
    ("ground, queries", repeated.__name__): "lines of text are queries",
    ("inspect, a dataset", missing.__name__): "a split may be missing",
    ("convert, features", missing.__name__): "another message lists what is missing",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    prepare(root)
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(good, tmp_path / "root"))


def end_of(command: list[str], capsys: pytest.CaptureFixture) -> tuple[object, str]:
    """The exit code of a command and what it prints on stderr."""
    verb, *options = command
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        run(lambda: import_module(f"sdst.{verb}").main(options))
    return end.value.code, capsys.readouterr().err


@pytest.mark.parametrize("make", FAULTS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_bad_file_is_one_line_that_names_it(
    root: Path, capsys, name: str, make: Callable[[Path], None]
) -> None:
    if reason := HARMLESS.get((name, make.__name__)):
        pytest.skip(reason)
    file, command = COMMANDS[name]
    make(root / file)
    code, printed = end_of(command.format(root / file, root=root).split(), capsys)
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert printed.endswith(f"{line}\n")
    assert file.split("/")[-1] in line or Path(file).stem in line
    assert not (root / "new").exists()


# Files that a command comes to by a folder's name.
GROUND = "ground --checkpoint {root}/run --query x --video {root}/film.mp4"
PARTS = {
    "a store's journal": (
        "growing/journal.jsonl",
        "convert --store {root}/store --output {root}/growing",
    ),
    "a store's numbers": ("store/video_tokens.bin", "convert --store {root}/store --verify"),
    "a run's features": ("run/features.json", GROUND),
    "a run's model": ("run/model/model.safetensors", GROUND),
    "a folder's video": (
        "videos/b.mp4",
        "extract --backbone demo --videos {root}/videos --output {root}/new",
    ),
    "a backbone's weights": (
        "towers/open_clip_model.safetensors",
        "ground --zero-shot --backbone local-dir:{root}/towers --query x --video {root}/film.mp4",
    ),
    "an included config": ("base.yaml", "info --config {root}/built.yaml"),
}


def socket_file(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(path))  # such names are short


@pytest.mark.parametrize("make", [pipe, device, loop, socket_file], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_file_is_not_waited_for(
    root: Path, monkeypatch, capsys, name: str, make: Callable[[Path], None]
) -> None:
    (root / "videos").mkdir()
    (root / "videos" / "b.mp4").touch()
    (root / "base.yaml").touch()
    (root / "built.yaml").write_text("include: [base.yaml]\n")
    shutil.copytree(DEMO_BACKBONE, root / "towers")
    file, command = PARTS[name]
    monkeypatch.chdir(root)
    make(root / file)
    code, printed = end_of(command.format(root=root).split(), capsys)
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert any(str(name) in line for name in (Path(file).name, (root / file).parent))


OUTPUTS = {
    "evaluate, json": "evaluate {scored} --json {}",
    "evaluate, submission": "evaluate {scored} --submit {} --dataset qvhighlights",
    "inspect, picture": "inspect --annotations {root}/train.jsonl --plot {}.png",
    "ground, json": "ground --checkpoint {root}/run --video {root}/film.mp4 --query x --json {}",
    "convert, store": "convert --store {root}/store --output {}",
    "extract, store": "extract --backbone demo --videos {root}/film.mp4 --output {}",
    "train, run": "train --config {root}/features.yaml --data.root {root}/features --output {}",
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_below_a_file_is_one_line(root: Path, capsys, name: str) -> None:
    place = root / "queries.txt" / "below"
    scored = f"--predictions {root}/predictions.jsonl --annotations {root}/val.jsonl"
    command = OUTPUTS[name].format(place, root=root, scored=scored).split()
    code, printed = end_of(command, capsys)
    assert code == 2
    assert str(root / "queries.txt") in printed.splitlines()[-1]
    assert "Traceback" not in printed


def test_a_planted_link_is_not_written_through(root: Path, tmp_path: Path, capsys) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (root / "out.json").symlink_to(victim)
    (tmp_path / "folder").mkdir()
    (root / ".copy.partial").symlink_to(tmp_path / "folder")
    scored = f"--predictions {root}/predictions.jsonl --annotations {root}/val.jsonl"
    end_of(f"evaluate {scored} --json {root}/out.json".split(), capsys)
    assert victim.read_text() == "mine" and not (root / "out.json").is_symlink()
    code, printed = end_of(f"convert --store {root}/store --output {root}/copy".split(), capsys)
    assert code == 2 and "is a symbolic link" in printed
    (root / "store" / "video_tokens.bin").rename(victim)
    (root / "store" / "video_tokens.bin").symlink_to(victim)
    before = victim.read_bytes()
    shutil.copytree(root / "growing", root / "other")
    end_of(f"convert --store {root}/other --output {root}/store".split(), capsys)
    assert victim.read_bytes() == before
    assert not list((tmp_path / "folder").iterdir())
