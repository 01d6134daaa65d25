"""Tables that a command prints become results."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import record, report
from benchmarks.record import cell, main, tables, with_table
from sdst.errors import InputError

PRINTED = """training
| clients | R1@0.5 |
|---|---|
| 1,000 | 79.0 ± 0.4 |
| 64 | 78.10 |

done
| a | b |
|:--|--:|
|  | 3 |
"""


def test_tables_are_found_among_other_lines() -> None:
    first, second = tables(PRINTED.splitlines())
    assert first == (["clients", "R1@0.5"], [[1000, {"mean": 79.0, "sd": 0.4}], [64, "78.10"]])
    assert second == (["a", "b"], [[None, 3]])


@pytest.mark.parametrize("text", ["1000", "007", "78.10", "1e-3", "79.0 ± 0.40", "nan %", "12 ms"])
def test_a_cell_keeps_the_digits_of_what_was_printed(text: str) -> None:
    assert cell(text) == text


def test_a_table_takes_the_place_of_its_earlier_run() -> None:
    old = {"command": ["x"], "columns": ["a"], "rows": [[1]], "notes": ["Kept."]}
    family = {"results": [old]}
    new = {"command": ["x"], "columns": ["a"], "rows": [[2]], "date": "2026-01-01"}
    assert with_table(family, new) == {"results": [{**old, **new}]}
    assert len(with_table(family, {**new, "command": ["y"]})["results"]) == 2
    assert family == {"results": [old]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = Path(shutil.copytree(report.FOLDER, tmp_path / "results"))
    monkeypatch.setattr(record, "FOLDER", copied)
    monkeypatch.setattr(record, "render_report", lambda _: 0)
    return copied


def test_a_command_is_recorded_with_its_origin(folder: Path) -> None:
    code = f"print({PRINTED!r})"
    main(["serving", "--seeds", "0", "1", "--", sys.executable, "-c", code])
    *_, first, second = json.loads((folder / "serving.json").read_text())["results"]
    assert first["rows"][1] == [64, "78.10"]
    assert second["seeds"] == [0, 1]
    assert second["command"][0].startswith("python -c")
    assert {"machine", "date", "torch"} <= second.keys()


@pytest.mark.parametrize(
    ("code", "message"), [("print('no')", "no Markdown table"), ("exit(3)", "exit code 3")]
)
def test_a_command_without_a_table_changes_nothing(folder: Path, code: str, message: str) -> None:
    before = (folder / "serving.json").read_bytes()
    with pytest.raises(InputError, match=message):
        main(["serving", "--", sys.executable, "-c", code])
    assert (folder / "serving.json").read_bytes() == before
