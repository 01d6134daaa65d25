"""Installing as a user does: an sdist, a wheel used from elsewhere, and what can fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from sdst.__main__ import VERBS

ROOT = Path(__file__).parents[1]
PAGE = ("*.html", "*.css", "*.js", "*.svg")
DATA = ("*.yaml", "*.json", "*.safetensors", "*.gz", "*.md", "py.typed", *PAGE)
pytestmark = pytest.mark.slow

RENDER = """
from pathlib import Path
from sdst.demo import DemoSize, prepare_demo
prepare_demo(Path("data"), DemoSize(train=3, val=1, test=1), threads=1)
"""
ANSWER = """
from sdst import Grounder
[answer] = Grounder("run").ground("data/videos/test_0000.mp4", ["the red ball spins"])
start, end, score = answer.windows[0]
assert 0 <= start < end <= answer.duration, answer.windows
"""
WHERE = """
import json, sdst.kernels
from sdst.kernels import library, nvrtc
print(json.dumps({
    "file": sdst.kernels.__file__,
    "missing": library.missing_reason(),
    "cuda": nvrtc.sources(),
}))
"""
TINY = {
    "config": "custom",
    "data.root": "data",
    "data.backbone": "demo",
    "data.clip_length": 1,
    "model.layers": 4,
    "model.width": 32,
    "model.queries": 5,
    "train.epochs": 1,
    "train.batch_size": 8,
    "output": "run",
}


@dataclass(frozen=True)
class Installed:
    """An environment that sdst is installed in, and a folder to work in outside the checkout."""

    scripts: Path
    folder: Path

    def run(self, command: str, *arguments: str) -> str:
        """The output of a command that must succeed."""
        done = subprocess.run(
            [str(self.scripts / command), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def copy_of_the_project(folder: Path) -> Path:
    left_out = shutil.ignore_patterns(
        ".git", "*.so", "build", "runs", "*.egg-info", "__pycache__", ".*cache", ".venv", "dist"
    )
    return Path(shutil.copytree(ROOT, folder / "sdst", ignore=left_out, symlinks=True))


def build(project: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a build in `project`; its log is in `stdout`."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def build_wheel(project: Path, **environment: str) -> subprocess.CompletedProcess:
    command = ["pip", "wheel", "--no-deps", "-w", "dist", "-v", "."]
    return build(project, *command, **environment)


def install(wheel: Path, folder: Path) -> Installed:
    """In a new environment that sees this one's packages, but not this checkout."""
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    command = ["pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run([sys.executable, "-m", *command], check=True)
    [packages] = (environment / "lib").glob("python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    (folder / "work").mkdir()
    return Installed(python.parent, folder / "work")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist and of the wheel that was built from it."""
    project = copy_of_the_project(tmp_path_factory.mktemp("distributions"))
    done = build(project, "build")
    assert done.returncode == 0, done.stdout[-4000:]
    return project / "dist"


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    [path] = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def wheel_without_a_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_of_the_project(tmp_path_factory.mktemp("without"))
    done = build_wheel(project, SDST_CPU="0", CXX="no-such-compiler")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "C++ library skipped, SDST_CPU=0" in done.stdout
    [path] = (project / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, tmp_path_factory.mktemp("installed"))


def assert_trains_and_answers(installed: Installed) -> None:
    installed.run("python", "-c", RENDER)
    installed.run("sdst", "train", *(part for k, v in TINY.items() for part in (f"--{k}", str(v))))
    metrics = json.loads((installed.folder / "run" / "metrics.json").read_text())
    assert metrics["epochs"] == 1
    installed.run("python", "-c", ANSWER)


def test_the_sdist_holds_all_that_a_build_needs(distributions: Path) -> None:
    [path] = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        found = {name.partition("/")[2] for name in archive.getnames()}
        assert not any(member.issym() or member.islnk() for member in archive.getmembers())
    sources = {str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*") if p.is_file()}
    assert sources | {"setup.py", "pyproject.toml", "README.md", "LICENSE"} <= found
    assert not any(name.endswith((".so", ".pyc")) for name in found)


def test_the_wheel_serves_every_python_of_its_platform(wheel: Path) -> None:
    assert "-py3-none-linux" in wheel.name


def test_a_wheel_without_a_library_serves_every_platform(wheel_without_a_library: Path) -> None:
    assert wheel_without_a_library.name.endswith("-py3-none-any.whl")


def test_the_wheel_holds_every_module_and_data_file_of_the_tree(wheel: Path) -> None:
    expected = {
        str(Path(package, path.relative_to(ROOT / folder)))
        for folder, package in (("sdst", "sdst"), ("kernels", "sdst/kernels"))
        for pattern in ("*.py", *DATA)
        for path in (ROOT / folder).rglob(pattern)
        if path.name != "budgets.json"  # of the kernels' tests
    }
    expected |= {
        str(Path("sdst/kernels", path.relative_to(ROOT)))
        for folder in ("cuda", "include", "nvrtc")
        for path in (ROOT / "csrc" / folder).iterdir()
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == expected | {"sdst/kernels/libsdst_cpu.so"}


def test_the_demos_backbone_is_small(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel).infolist()
    backbone = [i for i in files if i.filename.startswith("sdst/demo/backbone/")]
    assert 0 < sum(info.compress_size for info in backbone) <= 3 * 2**20


def test_the_installed_wheel_has_its_library_and_is_not_this_checkout(installed) -> None:
    found = json.loads(installed.run("python", "-c", WHERE))
    assert found["missing"] is None
    assert "temporal_nms" in found["cuda"]
    assert Path(found["file"]).is_relative_to(installed.scripts.parent)


def test_every_verb_of_the_installed_wheel_shows_its_help(installed) -> None:
    for verb in VERBS:
        shown = installed.run("sdst", verb, "--help")
        assert shown == installed.run("python", "-m", f"sdst.{verb}", "--help")


def test_the_installed_wheel_shows_what_it_has(installed) -> None:
    assert "libsdst_cpu.so, " in installed.run("sdst", "info")


def test_the_installed_wheel_trains_and_answers(installed) -> None:
    assert_trains_and_answers(installed)


def test_without_a_library_it_says_so_trains_and_answers(
    wheel_without_a_library: Path, tmp_path: Path
) -> None:
    installed = install(wheel_without_a_library, tmp_path)
    assert "libsdst_cpu.so was not built (SDST_CPU=0" in installed.run("sdst", "info")
    assert_trains_and_answers(installed)


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_a_compiler_that_is_missing_or_fails_is_one_line(compiler: str, tmp_path: Path) -> None:
    done = build_wheel(copy_of_the_project(tmp_path), CXX=compiler)
    assert done.returncode != 0
    [line] = [line for line in done.stdout.splitlines() if "sdst: libsdst_cpu.so: " in line]
    assert compiler in line and "apt install g++" in line and "SDST_CPU=0" in line
    assert "Traceback" not in done.stdout


def test_a_broken_nvcc_does_not_matter(tmp_path: Path) -> None:
    nvcc = tmp_path / "cuda" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\ntouch {tmp_path / 'called'}\nexit 1\n")
    nvcc.chmod(0o755)
    path = os.pathsep.join((str(nvcc.parent), os.environ["PATH"]))
    done = build_wheel(
        copy_of_the_project(tmp_path), SDST_CPU="0", PATH=path, CUDA_HOME=str(tmp_path / "cuda")
    )
    assert done.returncode == 0, done.stdout
    assert not (tmp_path / "called").exists()


@pytest.mark.parametrize("link", ["sdst/kernels", "kernels/csrc"])
def test_git_tracks_a_link_within_the_tree_as_a_link(link: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "--stage", link]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("120000 ")
