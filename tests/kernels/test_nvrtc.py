"""Compiled when needed, cached, and a reason in words where that cannot be."""

from __future__ import annotations

import ctypes
import shutil
from pathlib import Path

import pytest
import torch

from sdst.kernels import cuda_kernels, nvrtc

SOURCE, ARCHITECTURE = "temporal_nms", 80
needs_nvrtc = pytest.mark.skipif(
    nvrtc.missing_reason() is not None, reason=str(nvrtc.missing_reason())
)


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The compilations so far, by a stand-in for the slow compiler, with an empty cache."""
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 0))
    done: list[str] = []

    def compile_source(source: str, architecture: int) -> bytes:
        done.append(source)
        return b"a cubin"

    monkeypatch.setattr(nvrtc, "compile_source", compile_source)
    return done


def test_a_source_is_compiled_once(compiled: list[str]) -> None:
    assert not nvrtc.is_cached(SOURCE, ARCHITECTURE)
    assert nvrtc.cubin(SOURCE, ARCHITECTURE) == nvrtc.cubin(SOURCE, ARCHITECTURE) == b"a cubin"
    assert compiled == [SOURCE]
    assert nvrtc.is_cached(SOURCE, ARCHITECTURE)
    assert not nvrtc.is_cached(SOURCE, 90)


def test_another_version_of_the_compiler_compiles_anew(
    compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    monkeypatch.setattr(nvrtc, "version", lambda: (13, 1))
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    assert len(compiled) == 2


def test_another_header_compiles_anew(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    changed = Path(shutil.copytree(nvrtc.CSRC, tmp_path / "csrc"))
    (changed / "include" / "warp.h").write_text("// nothing")
    monkeypatch.setattr(nvrtc, "CSRC", changed)
    nvrtc._texts.cache_clear()
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    nvrtc._texts.cache_clear()
    assert len(compiled) == 2


@pytest.mark.parametrize("damage", [b"", b"a cubin", b"x" * 40])
def test_a_damaged_file_of_the_cache_is_compiled_again(compiled: list[str], damage: bytes) -> None:
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    nvrtc.cached_file(SOURCE, ARCHITECTURE).write_bytes(damage)
    assert nvrtc.cubin(SOURCE, ARCHITECTURE) == b"a cubin"
    assert len(compiled) == 2
    assert nvrtc.is_cached(SOURCE, ARCHITECTURE)


def test_a_cache_that_cannot_be_written_is_done_without(
    compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "a file"))
    assert nvrtc.cubin(SOURCE, ARCHITECTURE) == nvrtc.cubin(SOURCE, ARCHITECTURE) == b"a cubin"
    assert len(compiled) == 2


def test_nothing_half_written_stays_in_the_cache(compiled: list[str]) -> None:
    nvrtc.cubin(SOURCE, ARCHITECTURE)
    file = nvrtc.cached_file(SOURCE, ARCHITECTURE)
    assert list(file.parent.iterdir()) == [file]


@needs_nvrtc
def test_an_architecture_that_the_compiler_does_not_know_is_named() -> None:
    with pytest.raises(nvrtc.CompileError, match=r"does not compile for compute capability 3\.5"):
        nvrtc.compile_source(SOURCE, 35)


@needs_nvrtc
def test_a_source_that_does_not_compile_gives_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Path(shutil.copytree(nvrtc.CSRC, tmp_path / "csrc"))
    (changed / "cuda" / "broken.cu").write_text("no code at all")
    monkeypatch.setattr(nvrtc, "CSRC", changed)
    with pytest.raises(nvrtc.CompileError, match=r"broken\.cu\(1\): error"):
        nvrtc.compile_source("broken", 80)


def test_a_pytorch_without_cuda_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    nvrtc._nvrtc.cache_clear()
    assert "built without CUDA" in nvrtc.missing_reason()


def test_a_missing_compiler_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "99.0")
    nvrtc._nvrtc.cache_clear()
    assert nvrtc.missing_reason() == (
        "libnvrtc.so.99 is not found; `pip install nvidia-cuda-nvrtc` brings it"
    )


@pytest.mark.parametrize(
    ("hip", "message"),
    [("6.2", "this PyTorch is built for ROCm"), (None, "there is no CUDA device")],
)
def test_a_device_that_cannot_run_the_kernels_is_a_reason(
    hip: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_kernels.missing_reason(SOURCE, torch.device("cuda")).startswith(message)


def test_a_source_that_does_not_load_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: str, index: int) -> None:
        raise nvrtc.CompileError("NVRTC 13.0 does not compile for compute capability 7.0")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_kernels, "_module", fail)
    cuda_kernels._load_reason.cache_clear()
    message = cuda_kernels.missing_reason(SOURCE, torch.device("cuda", 0))
    cuda_kernels._load_reason.cache_clear()
    assert message == "temporal_nms.cu: NVRTC 13.0 does not compile for compute capability 7.0"


def test_arguments_are_packed_as_c_values() -> None:
    x = torch.zeros(3)
    packed = cuda_kernels.pack([x, None, 2**40, ctypes.c_int(-5), ctypes.c_float(0.5)])
    kinds = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float)
    pairs = zip(kinds, packed.addresses, strict=True)
    read = [kind.from_address(address).value for kind, address in pairs]
    assert read == [x.data_ptr(), None, 2**40, -5, 0.5]
