"""`python -m benchmarks.record FAMILY -- COMMAND...`: run a command, keep its tables as results.

Every Markdown table that COMMAND prints goes into `results/FAMILY.json` with the command, the date,
the machine, PyTorch's version and the commit, and the report is rendered anew. A table of the same
command and columns replaces the earlier one and keeps its sentences. Move replaced figures that
later readers may ask for to LOG.md.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import torch

from benchmarks.report import FOLDER, Cell, read_family, read_json
from benchmarks.report import main as render_report
from sdst.errors import InputError, run
from sdst.files.publish import replace_text
from sdst.training.provenance import commit, machine

_RULE = re.compile(r"\|[\s:|-]+\|")
_SPREAD = re.compile(r"(-?\d+\.\d+) ± (\d+\.\d+)")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m benchmarks.record --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__)
    parser.add_argument("family", metavar="FAMILY", help="a file of results/, by its stem")
    parser.add_argument("--conditions", help="what the figures are limited to: planted features")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="of all rows")
    parser.add_argument("command", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    file = FOLDER / f"{options.family}.json"
    content = read_json(file)
    found = tables(_output(options.command))
    if not found:
        raise InputError(f"{shlex.join(options.command)}: printed no Markdown table")
    origin = {
        "command": [_as_typed(options.command)],
        **({"conditions": options.conditions} if options.conditions else {}),
        **({"seeds": options.seeds} if options.seeds else {}),
        **_here(),
    }
    for columns, rows in found:
        content = with_table(content, {**origin, "columns": columns, "rows": rows})
    replace_text(file, as_json(content))
    read_family(file)
    return render_report([])


def tables(lines: Iterable[str]) -> list[tuple[list[str], list[list[Cell]]]]:
    """Columns and rows of every Markdown table in `lines`."""
    found: list[tuple[list[str], list[list[Cell]]]] = []
    head: list[str] | None = None  # of a table that a rule may begin
    inside = False
    for line in map(str.strip, lines):
        if not (line.startswith("|") and line.endswith("|")):
            head, inside = None, False
        elif _RULE.fullmatch(line) and head is not None:
            found.append((head, []))
            head, inside = None, True
        elif inside:
            found[-1][1].append([cell(text) for text in _cells(line)])
        else:
            head = _cells(line)
    return found


def cell(text: str) -> Cell:
    """A number, or a mean with its deviation, where the report would print it as `text`."""
    if spread := _SPREAD.fullmatch(text):
        mean, sd = map(float, spread.groups())
        return {"mean": mean, "sd": sd} if f"{mean} ± {sd}" == text else text
    for kind, spec in ((int, ","), (float, "")):
        try:
            number = kind(text.replace(",", "") if kind is int else text)
        except ValueError:
            continue
        if format(number, spec) == text:
            return number
    return text or None


def with_table(content: dict, result: dict) -> dict:
    """A family with a result: in the place of that of the same command and columns, or last."""
    content = copy.deepcopy(content)
    for number, old in enumerate(content["results"]):
        if all(old.get(key) == result[key] for key in ("command", "columns")):
            content["results"][number] = {**old, **result}
            return content
    content["results"].append(result)
    return content


def as_json(content: dict[str, Any]) -> str:
    """A family or `contents.json` as text; a table's row is a line."""
    content, rows = copy.deepcopy(content), []
    for result in content.get("results", ()):
        for number, row in enumerate(result.get("rows", ())):
            result["rows"][number] = f"row {len(rows)} of the table"
            rows.append(json.dumps(row, ensure_ascii=False))
    text = json.dumps(content, ensure_ascii=False, indent=2)
    return re.sub(r'"row (\d+) of the table"', lambda x: rows[int(x[1])], text) + "\n"


def _cells(line: str) -> list[str]:
    return [text.strip() for text in line[1:-1].split("|")]


def _as_typed(command: Sequence[str]) -> str:
    return shlex.join(["python" if part == sys.executable else part for part in command])


def _output(command: Sequence[str]) -> list[str]:
    """The lines that a command prints; they are shown as they come.

    Raises:
        InputError: it cannot be started, or it fails.
    """
    lines = []
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
    except OSError as error:
        raise InputError(f"{command[0]}: cannot be started: {error.strerror}") from None
    if process.returncode:
        raise InputError(f"{shlex.join(command)}: ended with exit code {process.returncode}")
    return lines


def _here() -> dict[str, str]:
    """Where and when a command runs."""
    host = machine()
    gpus = f", {', '.join(map(str, gpus))}" if (gpus := host["gpus"]) else ""  # type: ignore[arg-type]
    found = {
        "machine": f"{host['cores']} cores, {host['processor']}{gpus}",
        "torch": torch.__version__.partition("+")[0],
        "date": date.today().isoformat(),
        "commit": commit(),
    }
    return {key: str(value) for key, value in found.items() if value is not None}


if __name__ == "__main__":
    run(main)
