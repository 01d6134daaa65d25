"""The scripts of examples/ run as they are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import av
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


@pytest.mark.slow
def test_a_moment_found_among_videos_is_cut(tmp_path: Path) -> None:
    first = run("search_and_cut.py", tmp_path).splitlines()[0]
    assert first.startswith("film0.mp4 10 s to 20 s: ")
    with av.open(str(tmp_path / "clips" / first.rpartition(": ")[2])) as clip:
        assert clip.duration is not None and abs(clip.duration / av.time_base - 10) < 0.5
    assert "film0.mp4,the white block blinks,1,10.0,20.0" in (tmp_path / "moments.csv").read_text()
