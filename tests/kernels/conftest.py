"""Fixtures of the ops' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sdst.kernels import library, use_implementation


@pytest.fixture(params=["native", "reference"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once with the C++ kernels, once with the reference."""
    if request.param == "native" and library.missing_reason() is not None:
        pytest.skip(str(library.missing_reason()))
    with use_implementation(request.param):
        yield request.param
