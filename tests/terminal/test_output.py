"""What is printed cannot steer the terminal."""

from __future__ import annotations

import logging

import pytest

from sdst.errors import InputError, run
from sdst.grounding.report import format_found
from sdst.grounding.search import Found
from sdst.terminal.output import printable, printable_lines

RED, BACKWARDS = "\x1b[31m", "\u202e"


@pytest.mark.parametrize("text", ["a dog jumps", "क्\u200dष", "👩\u200d🚀 läuft", "一只狗"])
def test_every_script_is_printed_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert printable(f"a{RED}b\nc{BACKWARDS}\t") == r"a\x1b[31mb\nc\u202e\t"
    assert printable_lines(f"a{RED}\nb") == "a\\x1b[31m\nb"


def test_the_table_of_moments_has_a_line_for_each() -> None:
    found = Found(f"a\nb{RED}", 1.0, 2.0, 0.5, None)
    lines = format_found("a\rdog", [found], 2).splitlines()
    assert (
        len(lines) == 3 and lines[0].startswith(r"a\rdog") and lines[-1].endswith(r"a\nb\x1b[31m")
    )


def test_errors_and_notes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        logging.getLogger("sdst").warning("%s: skipped", f"a{RED}")
        raise InputError(f"b{RED}: no such file")

    with pytest.raises(SystemExit, match="2"):
        run(main)
    printed = capsys.readouterr().err
    assert RED not in printed
    assert "a\\x1b[31m: skipped" in printed and "error: b\\x1b[31m: no such file" in printed
