"""The fast part of the campaign of kills."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("what", ["--trainings 1 --extractions 0", "--trainings 0 --extractions 4"])
def test_killed_and_started_again_it_leaves_the_same_bytes(what: str) -> None:
    # Its sittings are forks, which cannot train once autograd has threads, as after other tests.
    command = [sys.executable, "-m", "tests.faults.kills", *what.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"different": 0' in done.stdout
