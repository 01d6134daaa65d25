"""docs/row_program.md: its example runs, its tables are complete."""

from __future__ import annotations

import re
from pathlib import Path

from sdst.kernels.row_program import native

PAGE = (Path(__file__).parents[2] / "docs" / "row_program.md").read_text()


def test_its_example_runs() -> None:
    [code] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "docs/row_program.md", "exec"), {})


def test_every_kind_of_expression_is_in_its_table() -> None:
    listed = re.findall(r"^\| `([A-Z]\w+)` \|", PAGE, re.MULTILINE)
    assert listed == [kind for kind in native.KINDS if kind != "Write"]


def test_every_field_of_an_instruction_is_in_its_table() -> None:
    [table] = re.findall(r"^\| field \| holds \|\n(.*?)\n\n", PAGE, re.MULTILINE | re.DOTALL)
    first = [line.split("|")[1] for line in table.splitlines()]
    assert re.findall(r"`(\w+)`", " ".join(first)) == list(native.FIELDS)
