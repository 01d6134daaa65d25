"""The quick part of the campaign on hostile files."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.fuzz import fuzz, table
from tests.faults.kinds import IMPORTED, KINDS


@pytest.mark.slow
def test_hostile_files_end_commands_in_one_line() -> None:
    said: list[str] = []
    tallies, failures = fuzz(range(200), seed=24, say=said.append)
    assert not failures, "\n".join(said)
    assert tallies.keys() == KINDS.keys()
    assert f"| {max(tally.codes[2] for tally in tallies.values()):,} |" in table(tallies)


@pytest.mark.slow
def test_hostile_files_of_other_programs_end_import_in_one_line() -> None:
    said: list[str] = []
    _, failures = fuzz(range(40), seed=24, say=said.append, kinds=IMPORTED)
    assert not failures, "\n".join(said)


@pytest.mark.slow
def test_hostile_indexes_end_commands_in_one_line() -> None:
    pytest.importorskip("lancedb", reason="an index needs the extra `index`")
    # Its workers are forks, in which LanceDB hangs once it has threads, as after other tests.
    command = [sys.executable, "-m", "tests.faults.fuzz", "--indexed", "--n", "40", "--seed", "24"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
