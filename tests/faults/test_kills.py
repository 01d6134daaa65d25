"""The fast part of the campaign of kills."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("what", "many"), [("trainings", 1), ("extractions", 4), ("indexings", 1)])
def test_killed_and_started_again_it_leaves_the_same_bytes(what: str, many: int) -> None:
    if what == "indexings":
        pytest.importorskip("lancedb", reason="an index needs the extra `index`")
    # Its sittings are forks, which cannot train once autograd has threads, as after other tests.
    counts = {"trainings": 0, "extractions": 0, "indexings": 0} | {what: many}
    options = [word for name, count in counts.items() for word in (f"--{name}", str(count))]
    command = [sys.executable, "-m", "tests.faults.kills", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"different": 0' in done.stdout
