"""Installing as a user does: an isolated build, a wheel used from elsewhere, and what can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def copy_of_the_project(folder: Path) -> Path:
    left_out = shutil.ignore_patterns(
        ".git", "*.so", "build", "runs", "*.egg-info", "__pycache__", ".*cache", ".venv"
    )
    return Path(shutil.copytree(ROOT, folder / "sdst", ignore=left_out))


def build_wheel(project: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", "dist", "-v", "."]
    return subprocess.run(
        command, cwd=project, env={**os.environ, **environment}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_of_the_project(tmp_path_factory.mktemp("wheel"))
    done = build_wheel(project, SDST_CUDA="0")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "CUDA library skipped" in done.stdout + done.stderr
    return next((project / "dist").glob("*.whl"))


def test_the_wheel_serves_every_python_of_its_platform(wheel: Path) -> None:
    assert "-py3-none-linux" in wheel.name


def test_the_wheel_holds_libraries_configs_and_backbone(wheel: Path) -> None:
    names = {info.filename: info for info in zipfile.ZipFile(wheel).infolist()}
    assert "sdst/kernels/libsdst_cpu.so" in names
    assert "sdst/configs/demo.yaml" in names
    backbone = [i for name, i in names.items() if name.startswith("sdst/data/demo/backbone/")]
    assert len(backbone) >= 3
    assert sum(info.compress_size for info in backbone) <= 3 * 2**20


def test_the_installed_wheel_computes_natively_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    """In a new environment that sees this one's packages, but not this checkout."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    check = (
        f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n"
        "import torch, sdst.kernels as k\n"
        f"assert k.__file__.startswith({str(tmp_path)!r}), k.__file__\n"
        "x = torch.rand(1, 4, 2, 8)\n"
        "k.deformable_attention(x, x[..., 0], x, x, implementation='native')\n"
    )
    subprocess.run([str(python), "-c", check], cwd=tmp_path, check=True)


def test_a_compile_error_fails_the_install(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path)
    (project / "csrc" / "cpu" / "broken.cpp").write_text("int broken( {")
    done = build_wheel(project, SDST_CUDA="0")
    assert done.returncode != 0
    assert "libsdst_cpu.so failed" in done.stdout + done.stderr


def test_demanding_cuda_without_nvcc_says_so(tmp_path: Path) -> None:
    project = copy_of_the_project(tmp_path)
    path = os.pathsep.join(
        folder
        for folder in os.environ["PATH"].split(os.pathsep)
        if not Path(folder, "nvcc").exists()
    )
    done = build_wheel(project, SDST_CUDA="1", PATH=path, CUDA_HOME="", CUDA_PATH="")
    assert done.returncode != 0
    assert "no nvcc on PATH" in done.stdout + done.stderr
