"""`python -m sdst.info` tells what serves here and how large a model is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sdst.errors import InputError
from sdst.info import main
from sdst.kernels import dispatch, library


def test_every_op_names_the_implementation_taken_and_why_the_others_are_not(capsys) -> None:
    main([])
    shown = capsys.readouterr().out
    for op in dispatch.ops():
        section = shown.split(f"\n{op}\n")[1]
        assert "taken" in section
    if not torch.cuda.is_available():
        assert "expected a CUDA device" in shown


def test_a_missing_library_is_explained(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library._inspect.cache_clear()
    main([])
    library._inspect.cache_clear()
    assert "libsdst_cpu.so was not built" in capsys.readouterr().out


def test_a_library_of_another_abi_is_refused(monkeypatch) -> None:
    if library.missing_reason("cpu"):
        pytest.skip(library.missing_reason("cpu"))
    monkeypatch.setattr(library, "ABI_VERSION", 99)
    library._inspect.cache_clear()
    reason = library.missing_reason("cpu")
    library._inspect.cache_clear()
    assert "expects 99" in reason


def test_a_config_shows_its_parameters(capsys) -> None:
    main(["--config", "qvhighlights_internvideo2"])
    shown = capsys.readouterr().out
    assert "sparse_block" in shown
    assert "total" in shown


def test_an_unknown_config_is_one_line() -> None:
    with pytest.raises(InputError, match="packaged configs"):
        main(["--config", "nothing"])


def test_the_command_runs_from_anywhere(tmp_path) -> None:
    command = [sys.executable, "-m", "sdst.info"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
