"""`python -m sdst.evaluate`, for a checkpoint and for anyone's predictions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.evaluate import main


def test_a_checkpoint_is_scored_as_at_the_end_of_its_training(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "report.json"
    main(["--checkpoint", str(tiny_checkpoint), "--split", "test", "--json", str(out)])
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    assert json.loads(out.read_text()) == metrics["report"]
    assert "R1@0.5" in capsys.readouterr().out


def test_predictions_are_scored_against_any_annotations(
    tiny_checkpoint: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    files = [str(tiny_checkpoint / "predictions.jsonl"), str(tiny_dataset / "test.jsonl")]
    options = ["--predictions", files[0], "--annotations", files[1], "--clip-length", "1"]
    main([*options, "--json", str(out)])
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    found = json.loads(out.read_text())
    assert found["brief"] == pytest.approx(metrics["report"]["brief"], abs=0.02)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--predictions", "p.jsonl"],
        ["--checkpoint", "runs/none"],
        ["--checkpoint", "c", "--predictions", "p.jsonl", "--annotations", "a.jsonl"],
        ["--predictions", "no-such.jsonl", "--annotations", "no-such.jsonl"],
    ],
)
def test_a_wrong_mix_of_options_is_refused(options: list[str]) -> None:
    with pytest.raises((InputError, SystemExit)) as error:
        main(options)
    assert not isinstance(error.value, SystemExit) or error.value.code == 2
