"""The fast part of the campaign of kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import kills


@pytest.mark.parametrize(("make", "seeds"), [(kills.extractions, 4), (kills.trainings, 1)])
def test_killed_and_started_again_it_leaves_the_same_bytes(
    tmp_path: Path, make: object, seeds: int
) -> None:
    campaign = make(tmp_path)
    assert [campaign.try_one(seed)[1] for seed in range(seeds)] == [None] * seeds
