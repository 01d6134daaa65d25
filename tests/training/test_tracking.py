"""Where curves go."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.tracking import get_available_trackers

from sdst.errors import InputError
from sdst.train import main

AVAILABLE = [str(name) for name in get_available_trackers()]


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_that_is_not_installed_is_named(
    tracker: str, tiny_options: list[str], tmp_path: Path
) -> None:
    if tracker in AVAILABLE:
        pytest.skip(f"{tracker} is installed")
    with pytest.raises(InputError, match=f"train.tracker {tracker}: .*pip install {tracker}"):
        main(["--output", str(tmp_path / "run"), *tiny_options, "--train.tracker", tracker])
    assert not (tmp_path / "run").exists()


def test_without_one_a_run_is_the_same_and_has_no_curves_of_it(
    tiny_checkpoint: Path, tiny_options: list[str], tmp_path: Path
) -> None:
    main(["--output", str(tmp_path), *tiny_options, "--train.tracker", "none"])
    assert not (tmp_path / "tensorboard").exists()
    for name in ("model/model.safetensors", "predictions.jsonl"):
        assert (tmp_path / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


def test_a_tracker_that_cannot_start_is_one_line_and_leaves_no_folder(
    tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "mlflow" not in AVAILABLE:
        pytest.skip("mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://")
    with pytest.raises(InputError, match=r"train\.tracker mlflow: cannot be started: ") as error:
        main(["--output", str(tmp_path / "run"), *tiny_options, "--train.tracker", "mlflow"])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_a_tracker_has_the_runs_origin_and_its_figures(
    tracker: str, tiny_options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tracker not in AVAILABLE:
        pytest.skip(f"{tracker} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    main(["--output", str(tmp_path / "run"), *tiny_options, "--train.tracker", tracker])
    if tracker == "wandb":
        assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
        return
    import mlflow

    (run,) = mlflow.search_runs(experiment_names=["sdst"], output_format="list")
    assert run.data.params["config.train.seed"] == "0"
    assert "val/R1_at_0.5" in run.data.metrics
