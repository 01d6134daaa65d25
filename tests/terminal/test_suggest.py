"""The closest names to an unknown one."""

from __future__ import annotations

import pytest

from sdst.terminal.suggest import closest, did_you_mean

KEYS = ["--train.epochs", "--train.batch_size", "--train.seed", "--planted.seed", "--output"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--epochs", ["--train.epochs"]),
        ("--train.epohcs", ["--train.epochs"]),
        ("--batch-size", ["--train.batch_size"]),
        ("--seed", ["--train.seed", "--planted.seed"]),
        ("--optput", ["--output"]),
        ("--xyzzy", []),
    ],
)
def test_what_is_close(word: str, expected: list[str]) -> None:
    assert closest(word, KEYS) == expected


def test_nothing_is_suggested_where_nothing_is_close() -> None:
    assert did_you_mean("xyzzy", ["demo"]) == ""
    assert did_you_mean("demos", ["demo"]) == "; did you mean demo?"
