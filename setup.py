"""Builds the native kernels of `csrc/` beside the Python package.

The libraries have a plain C ABI and are loaded with ctypes, so building them needs a C++ compiler
and nothing of torch or Python. Everything else about the package stands in pyproject.toml.

Environment:
    CXX         C++ compiler (default: c++).
    SDST_CPU    0 skips the C++ library; PyTorch then computes what it would, more slowly.
    SDST_CUDA   0 skips the CUDA library even where nvcc is found, 1 demands it; without either, an
                nvcc that fails is no error.
    CUDA_HOME, CUDA_PATH   toolkit whose nvcc is used (default: the one nvcc on PATH belongs to).
"""

import os
import re
import shlex
import shutil
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
CUDA_FLAGS = [
    "-std=c++17",
    "-O3",
    "--cudart=static",
    "--compiler-options=-fPIC,-fvisibility=hidden",
    "--generate-code=arch=compute_80,code=sm_80",
    "--generate-code=arch=compute_90,code=[sm_90,compute_90]",
]


NEEDED = (
    "a C++17 compiler builds it (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; CXX "
    "names another); SDST_CPU=0 installs without, and slower"
)


class BuildError(Exception):
    """A library cannot be built; the message says why."""


def find_nvcc() -> str | None:
    """The real nvcc, or None.

    What is called nvcc on PATH may be a link or a script that starts another one, whose headers and
    libraries lie beside that other one; `--dryrun` tells where it really is.
    """
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        nvcc = Path(os.environ.get(variable, "")) / "bin" / "nvcc"
        if os.environ.get(variable) and nvcc.is_file():
            return str(nvcc.resolve())
    found = shutil.which("nvcc")
    if found is None:
        return None
    command = [found, "--dryrun", "-x", "cu", os.devnull]
    try:
        trace = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return found
    here = re.search(r"^#\$ _HERE_=(.+)$", trace.stderr, re.MULTILINE)
    return str(Path(here[1]) / "nvcc") if here else str(Path(found).resolve())


def library(name: str, folder: str, pattern: str) -> Extension:
    sources = sorted(str(path.relative_to(ROOT)) for path in (CSRC / folder).glob(pattern))
    return Extension(f"sdst.kernels.{name}", sources, depends=HEADERS)


def native_libraries() -> list[Extension]:
    libraries = []
    if os.environ.get("SDST_CPU") == "0":
        say("C++ library skipped, SDST_CPU=0")
    else:
        libraries.append(library("libsdst_cpu", "cpu", "*.cpp"))
    requested, nvcc = os.environ.get("SDST_CUDA", ""), find_nvcc()
    if requested == "0":
        say("CUDA library skipped, SDST_CUDA=0")
    elif nvcc:
        libraries.append(library("libsdst_cuda", "cuda", "*.cu"))
    elif requested == "1":
        raise SystemExit("sdst: SDST_CUDA=1 but no nvcc on PATH, in CUDA_HOME or in CUDA_PATH")
    else:
        say("CUDA library skipped, no nvcc found")
    return libraries


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
    """Compiles every library with one compiler call; only that of CUDA may fail."""

    def get_ext_filename(self, fullname: str) -> str:
        return fullname.replace(".", os.sep) + ".so"

    def build_extensions(self) -> None:
        for ext in list(self.extensions):
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            cuda = ext.sources[0].endswith(".cu")
            cxx = os.environ.get("CXX") or "c++"
            compiler = [find_nvcc(), *CUDA_FLAGS] if cuda else [*shlex.split(cxx), *CXX_FLAGS]
            try:
                compile_library(compiler, ext.sources, target)
            except BuildError as error:
                if not cuda:
                    raise SystemExit(f"sdst: {target.name}: {error}; {NEEDED}") from None
                if os.environ.get("SDST_CUDA") == "1":
                    raise SystemExit(f"sdst: {target.name}: {error}") from None
                say(f"CUDA library skipped, {error}; SDST_CUDA=1 insists on it")
                self.extensions.remove(ext)


class NativeWheel(bdist_wheel):
    """One wheel per platform serves every Python: the libraries do not use its C ABI."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=find_packages(include=["sdst", "sdst.*"]),
    package_data={
        "sdst": ["py.typed", "configs/*.yaml", "configs/parts/*.yaml", "demo/backbone/*"]
    },
    ext_modules=native_libraries(),
    cmdclass={"build_ext": BuildNative, "bdist_wheel": NativeWheel},
)
