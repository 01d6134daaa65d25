"""The pages' commands run as printed; `.ci/run` runs all of them (`tests.readme`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.readme import (
    CANNOT_RUN,
    SMALLER,
    all_commands,
    moments_of,
    provide_films,
    read_but_not_made,
    reason_not_to_run,
    run_as_it_stands,
)

COMMANDS = all_commands()
QUICK = [
    "python -m sdst.info",
    "python -m sdst.import moments.csv --videos FILMS --output DATASET",
    "python -m sdst.inspect --root DIR --plot dataset.png",
    "python -m sdst.inspect --annotations highlight_val_release.jsonl",
]


def test_every_reason_not_to_run_a_command_is_needed() -> None:
    starts = [*CANNOT_RUN, *SMALLER]
    assert not [start for start in starts if not any(c.startswith(start) for c in COMMANDS)]


def test_most_commands_run() -> None:
    runnable = [command for command in COMMANDS if reason_not_to_run(command) is None]
    assert {*QUICK, "python -m sdst.train"} <= set(runnable)
    assert len(runnable) >= 12


def test_every_file_that_a_command_reads_is_there_by_then() -> None:
    runnable = [command for command in COMMANDS if reason_not_to_run(command) is None]
    assert read_but_not_made(runnable) == []
    astray = "python -m sdst.ground --checkpoint runs/lost --video film.mp4"
    assert read_but_not_made([astray]) == [(astray, "runs/lost")]


@pytest.mark.slow
@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_runs_in_a_bare_environment(
    command: str, tiny_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "DIR").mkdir()
    for split in ("train", "val"):
        lines = moments_of(tiny_dataset / f"{split}.jsonl")
        (tmp_path / "DIR" / f"{split}.jsonl").write_text("\n".join(lines))
    (tmp_path / "DIR" / "videos").symlink_to(tiny_dataset / "videos")
    provide_films(tmp_path, tiny_dataset)
    annotations = (tiny_dataset / "val.jsonl").read_text()
    (tmp_path / "highlight_val_release.jsonl").write_text(annotations)
    done = run_as_it_stands(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
