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


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have it: a few rendered videos and three annotation files."""
    from sdst.data.demo import DemoSize, prepare_demo

    root = tmp_path_factory.mktemp("dataset") / "tiny"
    return prepare_demo(root, DemoSize(train=6, val=2, test=2), processes=1)


@pytest.fixture(scope="session")
def tiny_options(tiny_dataset: Path) -> list[str]:
    """Command-line options of a training run on `tiny_dataset` that takes seconds."""
    options = {
        "data.dataset": "custom",
        "data.root": tiny_dataset,
        "model.width": 32,
        "model.queries": 5,
        "train.epochs": 3,
        "train.batch_size": 8,
        "train.warmup_steps": 2,
        "train.validate_every": 1,
    }
    return [part for key, value in options.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a finished training run on `tiny_dataset`."""
    from sdst.train import main

    output = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["--output", str(output), *tiny_options]) == 0
    return output
