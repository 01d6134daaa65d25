"""The scripts of examples/ run as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(name: str, *arguments: str | Path) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_every_look_at_the_signal_finds_the_bump_better() -> None:
    last = run("find_a_bump.py").splitlines()[-1]
    first, second, third = map(float, re.findall(r"0\.\d+", last))
    assert first + 0.05 < second < third and third > 0.75


@pytest.mark.slow
def test_own_videos_from_a_table_to_an_answer(tmp_path: Path) -> None:
    printed = run("own_videos.py", tmp_path)
    assert "train.jsonl: " in printed and "R1@0.5" in printed
    assert re.search(r"\d s to +[\d.]+ s  score 0\.\d\d", printed)
