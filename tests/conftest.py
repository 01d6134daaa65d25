"""Fixtures that several rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotations, sample predictions and a video, where it is present."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("SDST_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here; set SDST_SHARED_DATA to the folder of real data")
    return folder
