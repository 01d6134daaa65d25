"""Builds the C++ library of `csrc/cpu` beside the Python package.

The library has a plain C ABI and is loaded with ctypes, so building it needs a C++ compiler and
nothing of torch or Python. The CUDA sources go along as data: they are compiled where and when they
are needed (kernels/nvrtc.py). Everything else about the package stands in pyproject.toml.

Environment:
    CXX         C++ compiler (default: c++).
    SDST_CPU    0 skips the library; PyTorch then computes what it would, more slowly.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (CSRC / "include").glob("*.h"))
CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=fast",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-psabi",
    "-pthread",
]
NEEDED = (
    "a C++17 compiler builds it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; CXX "
    "names another); SDST_CPU=0 installs without, and slower"
)


class BuildError(Exception):
    """The library cannot be built; the message says why."""


def native_libraries() -> list[Extension]:
    if os.environ.get("SDST_CPU") == "0":
        say("C++ library skipped, SDST_CPU=0")
        return []
    sources = sorted(str(path.relative_to(ROOT)) for path in (CSRC / "cpu").glob("*.cpp"))
    return [Extension("sdst.kernels.libsdst_cpu", sources, depends=HEADERS)]


def say(line: str) -> None:
    print(f"sdst: {line}", file=sys.stderr)


def compile_library(compiler: list[str], sources: list[str], target: Path) -> None:
    """Compile and link in one call; what the compiler prints passes through.

    Raises:
        BuildError: the compiler is not there or fails.
    """
    command = [*compiler, "-shared", f"-I{CSRC / 'include'}", *sources, "-o", str(target)]
    print(" ".join(command), flush=True)
    try:
        code = subprocess.run(command, cwd=ROOT).returncode
    except OSError as error:
        raise BuildError(f"{compiler[0]} cannot be run ({error.strerror})") from None
    if code != 0:
        raise BuildError(f"{compiler[0]} failed with exit code {code}, its messages are above")


class BuildNative(build_ext):
    """Compiles the library with one compiler call."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = [*shlex.split(os.environ.get("CXX") or "c++"), *CXX_FLAGS]
        try:
            compile_library(compiler, ext.sources, target)
        except BuildError as error:
            raise SystemExit(f"sdst: {target.name}: {error}; {NEEDED}") from None


class NativeWheel(bdist_wheel):
    """One wheel per platform serves every Python: the library does not use its C ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=find_packages(include=["sdst", "sdst.*"]),
    package_data={
        "sdst": [
            "py.typed",
            "configs/*.yaml",
            "configs/parts/*.yaml",
            "demo/backbone/*",
            "zoo/*/*",
        ],
        "sdst.serving": ["page/*", "page/js/*"],
        "sdst.kernels": ["csrc/cuda/*.cu", "csrc/include/*.h", "csrc/nvrtc/*"],
    },
    ext_modules=native_libraries(),
    cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
)
