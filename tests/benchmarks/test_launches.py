"""Launches of a step and of an answer do not grow."""

from __future__ import annotations

import pytest

from benchmarks.launches import MOST, count
from benchmarks.step_time import VARIANTS


@pytest.mark.parametrize("variant", MOST)
def test_a_step_and_an_answer_take_no_more_launches_than_they_did(variant: str) -> None:
    found, most = count(variant), MOST[variant]
    assert found.step <= most.step, "a training step"
    assert found.answer <= most.answer, "an answer"


def test_every_variant_has_its_ratchet() -> None:
    assert MOST.keys() == VARIANTS.keys()
