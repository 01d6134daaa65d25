"""How much commands say, and where."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser

import pytest

from sdst.terminal.options import add_verbosity
from sdst.terminal.verbosity import is_quiet, is_verbose, progress_bar, talk

note = logging.getLogger("sdst.some.part")


def say(arguments: list[str]) -> None:
    """As a command does: parse, work under a bar, log."""
    parser = ArgumentParser()
    add_verbosity(parser)
    with talk():
        parser.parse_args(arguments)
        for _ in progress_bar(range(3), "work"):
            note.debug("a step")
        note.info("a note")
        note.warning("a warning")


@pytest.mark.parametrize(
    ("arguments", "shown", "hidden"),
    [
        ([], ["work", "a note", "a warning"], ["a step"]),
        (["-q"], ["a warning"], ["work", "a note", "a step"]),
        (["--quiet"], ["a warning"], ["work", "a note", "a step"]),
        (["-v"], ["work", "sdst.some.part: a step", "a note", "a warning"], []),
    ],
)
def test_what_is_shown(
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    shown: list[str],
    hidden: list[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    say(arguments)
    out, err = capsys.readouterr()
    assert not out
    assert all(text in err for text in shown)
    assert not any(text in err for text in hidden)


def test_a_pipe_gets_warnings_and_no_notes(capsys: pytest.CaptureFixture) -> None:
    say([])
    err = capsys.readouterr().err
    assert "a warning" in err and "a note" not in err


def test_nothing_of_it_stays(capsys: pytest.CaptureFixture) -> None:
    say(["-q"])
    assert not is_quiet() and not is_verbose()
    capsys.readouterr()
    note.info("of a program that uses the library")
    assert capsys.readouterr().err == ""


def test_a_program_hides_bars_as_it_hides_notes(capsys: pytest.CaptureFixture) -> None:
    root = logging.getLogger("sdst")
    root.setLevel(logging.WARNING)
    try:
        list(progress_bar(range(3)))
    finally:
        root.setLevel(logging.NOTSET)
    assert capsys.readouterr().err == ""
