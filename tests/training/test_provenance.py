"""The provenance of figures in `metrics.json`."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import sdst
from sdst.config import DataConfig, load_config
from sdst.sources.dataset import open_data
from sdst.train import show_metrics
from sdst.training.provenance import commit, features_fingerprint
from tests.layouts import write_features, write_labels


def test_a_run_says_what_made_it(tiny_checkpoint: Path) -> None:
    found = json.loads((tiny_checkpoint / "metrics.json").read_text())["provenance"]
    assert (found["version"], found["torch"]) == (sdst.__version__, torch.__version__)
    assert found["seed"] == 0
    assert found["planted"] is False
    assert found["limit"] is None
    assert found["config"]["train"]["epochs"] == 3
    assert {"commit", "command", "date", "features"} <= found.keys()
    assert found["machine"]["cores"] >= 1


def test_the_commit_is_that_of_the_packages_own_checkout(tmp_path: Path) -> None:
    package = tmp_path / "sdst"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert commit(package) is None  # no repository
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    assert commit(package) is None  # a repository of something else
    for arguments in (["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
    assert commit(package) == head
    (package / "__init__.py").write_text("changed = True\n")
    assert commit(package) == f"{head}-dirty"


def test_the_fingerprint_changes_with_the_features(tmp_path: Path) -> None:
    write_labels(tmp_path)
    files = json.dumps({"train": "train.jsonl", "val": "val.jsonl"})
    options = [*write_features(tmp_path, "univtg"), "--data.annotations", files]
    options += ["--model.layers", "4", "--model.video_width", "0", "--model.text_width", "0"]

    def fingerprint(*more: str) -> str:
        return features_fingerprint(
            open_data(load_config("tvsum_clip_slowfast", [*options, *more]))
        )

    first = fingerprint()
    assert fingerprint() == first
    video = next((tmp_path / "video").iterdir())
    shutil.copy(video, video.with_suffix(".kept"))
    video.write_bytes(video.read_bytes() + b"0")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("data", "reservations"),
    [
        (DataConfig(), []),
        (DataConfig(limit=800), ["the first 800 queries of each split"]),
        (DataConfig(planted=True), ["planted features"]),
    ],
)
def test_figures_of_less_than_the_benchmark_say_so(
    data: DataConfig, reservations: list[str]
) -> None:
    assert data.reservations() == reservations


def test_they_say_so_beside_the_figures(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture
) -> None:
    metrics = json.loads((tiny_checkpoint / "metrics.json").read_text())
    config = load_config(tiny_checkpoint / "config.yaml", ["--data.limit", "5"])
    show_metrics(config, metrics)
    assert "queries; the first 5 queries of each split" in capsys.readouterr().out.splitlines()[0]
