"""`python -m sdst.info` reports what serves here and how large a model is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from sdst.errors import InputError
from sdst.info import main
from sdst.kernels import dispatch, library, use_implementation
from sdst.kernels.registry import OPS


def test_every_op_names_the_implementation_taken_and_why_the_others_are_not(capsys) -> None:
    main([])
    shown = capsys.readouterr().out
    for op in OPS:
        section = shown.split(f"\n{op}\n")[1]
        assert "taken" in section
    if not torch.cuda.is_available():
        assert "expected a CUDA device" in shown


def test_a_cpu_with_native_bf16_is_reported(capsys, monkeypatch) -> None:
    for has in (True, False):
        monkeypatch.setattr(library, "multiplies_bf16", lambda has=has: has)
        main([])
        assert ("bf16 matrix multiplies" in capsys.readouterr().out) == has


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton serves here")
def test_a_request_that_does_not_fit_is_explained(capsys) -> None:
    with use_implementation("triton"):
        main([])
    rows = capsys.readouterr().out.split("\nselect_tokens\n")[1].splitlines()
    assert "requested, does not fit: tokens is on cpu, expected a CUDA device" in rows[0]
    assert rows[2].split(maxsplit=1) == ["reference", "fits, not requested"]


def test_a_request_that_no_op_knows_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(dispatch, "_requested", ("refrence",))
    with pytest.raises(InputError, match=r"^SDST_IMPLEMENTATION: no op has an .*'refrence'"):
        main([])


def test_a_missing_library_is_explained(capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library._inspect.cache_clear()
    main([])
    library._inspect.cache_clear()
    assert "libsdst_cpu.so was not built" in capsys.readouterr().out


def test_a_library_of_another_abi_is_refused(monkeypatch) -> None:
    if library.missing_reason():
        pytest.skip(library.missing_reason())
    monkeypatch.setattr(library, "ABI_VERSION", 99)
    library._inspect.cache_clear()
    reason = library.missing_reason()
    library._inspect.cache_clear()
    assert "expects 99" in reason


def test_a_config_shows_its_parameters(capsys) -> None:
    main(["--config", "qvhighlights_internvideo2"])
    shown = capsys.readouterr().out
    assert "sparse_block" in shown
    assert "total" in shown


def test_json_has_what_the_tables_have(capsys) -> None:
    main(["--json"])
    tables = json.loads(capsys.readouterr().out)
    assert {"versions", "devices", "native code", *OPS} <= tables.keys()
    main(["--json", "--config", "qvhighlights_internvideo2"])
    [counts] = json.loads(capsys.readouterr().out).values()
    assert counts.pop("total") == sum(counts.values())


def test_an_unknown_config_is_one_line() -> None:
    with pytest.raises(InputError, match="packaged configs"):
        main(["--config", "nothing"])


@pytest.mark.parametrize(("asked", "code"), [("", 0), ("triton", 0), ("refrence", 2)])
def test_the_command_runs_from_anywhere(tmp_path, asked: str, code: int) -> None:
    command = [sys.executable, "-m", "sdst.info"]
    environment = os.environ | {"SDST_IMPLEMENTATION": asked}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
