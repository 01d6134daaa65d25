"""`predict.snap: auto` ends as what the validation split says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sdst.pretrained.folder import load_checkpoint
from sdst.train import main
from sdst.training.snapping import REACH


def test_the_validation_split_decides(
    tiny_options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    main(["--output", str(run), *tiny_options, "--train.epochs", "1", "--predict.snap", "auto"])
    [line] = re.findall(
        r"predict\.snap (.*): val .* ([\d.]+) with .* ([\d.]+) without", capsys.readouterr().out
    )
    decided, with_it, without = line
    assert decided == str(REACH if float(with_it) > float(without) else None)
    description, _ = load_checkpoint(run)
    assert str(description.config.predict.snap) == decided


def test_what_is_given_stays(tiny_options: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main(["--output", str(run), *tiny_options, "--train.epochs", "1", "--predict.snap", "0.3"])
    assert load_checkpoint(run)[0].config.predict.snap == 0.3
