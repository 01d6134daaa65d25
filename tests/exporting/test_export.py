"""`sdst export`: programs that answer as the model does, without this library."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdst.errors import InputError
from sdst.export import main
from sdst.exporting import files
from sdst.exporting.answering import Answering
from sdst.exporting.formats import check_format
from sdst.exporting.programs import Sizes, compare, expected, made_up
from sdst.pretrained.folder import load_checkpoint
from tests.untrained import small_config, write_checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "export.md"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the paper's block, which reads no frozen tokens."""
    config = small_config()
    size = {"layers": 2, "schedule": (2, 1), "width": 16, "heads": 2, "queries": 3}
    model = replace(config.model, context="none", **size)
    # Untrained, some ends are halves of seconds, which the last digit rounds up or down.
    predict = replace(config.predict, round_to=None, snap=0.5, nms="linear", stretch=40, overlap=20)
    made = replace(config, model=model, predict=predict)
    return write_checkpoint(tmp_path_factory.mktemp("dense") / "run", made)


@pytest.mark.slow
def test_a_program_of_pytorch_answers_with_other_sizes(dense: Path, tmp_path: Path) -> None:
    output = tmp_path / "moments.pt2"
    assert main(["--checkpoint", str(dense), "--output", str(output)]) == 0
    about = json.loads(output.with_suffix(".json").read_text())
    assert about["program"]["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    program = torch.export.load(output)
    assert not [node for node in program.graph.nodes if "sdst" in str(node.target)]
    description, model = load_checkpoint(dense)
    network = Answering(model, description.config.data.clip_length, description.config.predict)
    inputs = made_up(network, Sizes(4, 17, 7, 6))
    with torch.no_grad():
        found = {k: v.numpy() for k, v in program.module()(*inputs.values()).items()}
    assert compare(found, expected(network, inputs), inputs) < 1e-4
    assert list(inputs) == [given["name"] for given in about["inputs"]]
    assert list(found) == [given["name"] for given in about["outputs"]]
    for given in about["inputs"]:
        assert str(inputs[given["name"]].dtype) == f"torch.{given['dtype']}"
        assert len(given["shape"]) == inputs[given["name"]].ndim


@pytest.mark.slow
def test_the_example_of_the_page_needs_numpy_and_onnxruntime(dense: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'sdst[export]'")
    pytest.importorskip("onnxscript", reason="needs pip install 'sdst[export]'")
    assert main(["--checkpoint", str(dense), "--output", str(tmp_path / "moments.onnx")]) == 0
    [example] = re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    example += "\nimport sys\nassert not {'sdst', 'torch'} & set(sys.modules)\n"
    command = [sys.executable, "-I", "-c", example]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r" +\d+\.\d s to +\d+\.\d s  [01]\.\d{3}\n", done.stdout)


@pytest.mark.slow
def test_a_program_that_answers_otherwise_is_not_written(
    dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match=r"not written: with 3 samples, 30 clips, .* otherwise"):
        main(["--checkpoint", str(dense), "--output", str(tmp_path / "moments.pt2")])
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--output", "moments"], "expected a name that ends in .pt2 or .onnx"),
        (["--output", "nowhere/moments.pt2"], "no such folder nowhere; create it first"),
        (["--output", "folder.pt2"], "is a folder"),
        (["--output", "moments.pt2", "--checkpoint", "nothing"], "checkpoint nothing: no such"),
    ],
)
def test_what_cannot_be_written_is_refused(options, reason, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InputError, match=reason):
        main(options)


def test_a_model_that_reads_through_a_window_is_refused(tmp_path: Path) -> None:
    config = small_config()
    windowed = replace(config, model=replace(config.model, window=8))
    windowed = replace(windowed, predict=replace(config.predict, stretch=40, overlap=20))
    checkpoint = write_checkpoint(tmp_path / "run", windowed)
    with pytest.raises(InputError, match=r"model\.window 8 is less than its videos of 40 clips"):
        main(["--checkpoint", str(checkpoint), "--output", str(tmp_path / "moments.pt2")])


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"onnx: needs onnx; pip install 'sdst\[export\]'"):
        check_format("onnx")
