"""Implementations requested of all ops, by a context manager or the environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from sdst.kernels import ImplementationError, dispatch, dropout, use_implementation

UNKNOWN = "no op has an implementation 'refrence': ['auto', "


def test_an_unknown_request_is_an_error() -> None:
    with pytest.raises(ImplementationError) as error, use_implementation("refrence"):
        pass
    assert str(error.value).startswith(UNKNOWN)


def test_an_unknown_request_of_the_environment_is_an_error_when_an_op_is_called(
    monkeypatch,
) -> None:
    monkeypatch.setattr(dispatch, "_requested", ("refrence",))
    x = torch.ones(3)
    for use in (lambda: dropout(x, 0.5), lambda: dispatch.would_take("dropout", "native", x)):
        with pytest.raises(ImplementationError) as error:
            use()
        assert str(error.value).startswith(UNKNOWN)
    assert dropout(x, 0.5, implementation="torch").shape == (3,)


def test_a_request_is_ignored_by_an_op_that_has_no_such_implementation() -> None:
    with use_implementation("triton"):
        assert dropout(torch.ones(3), 0.5).shape == (3,)


@pytest.mark.parametrize(
    ("asked", "message"),
    [("reference", "took reference"), ("", "took "), ("refrence", UNKNOWN)],
)
def test_the_environment_is_read_at_import(asked: str, message: str) -> None:
    code = (
        "import torch; from sdst.kernels import dispatch; "
        "print('took', dispatch.choose('dropout', 'auto', torch.ones(3)))"
    )
    environment = os.environ | {"SDST_IMPLEMENTATION": asked}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert message in done.stdout + done.stderr
