"""Extraction within a memory budget: what it refuses, how it sizes batches, what it takes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.backbones import load_backbone
from sdst.data.video import VideoInfo
from sdst.errors import InputError
from sdst.extraction.budget import BudgetError, MemoryBudget
from sdst.extraction.pipeline import Report, extract_features
from sdst.extraction.settings import Settings
from sdst.memory import own_memory, parse_bytes
from tests.extraction.grey import GreyBackbone, write_video

ROOMY = Settings(1.0, memory=2**40)
SMALL = VideoInfo(duration=10.0, fps=2.0, width=16, height=16, num_frames=20)
LARGE = VideoInfo(duration=10.0, fps=2.0, width=3840, height=2160, num_frames=20)


class Backbone(GreyBackbone):
    """Remembers what it was given, and whether it still has a text tower."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.text = True

    def encode_frames(self, frames: np.ndarray):
        self.seen.append(len(frames))
        return super().encode_frames(frames)

    def release_text(self) -> None:
        self.text = False


def make_budget(limit: int) -> MemoryBudget:
    return MemoryBudget(limit, Backbone(), text=True, decoders=1, encoders=1, batches=4)


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("800mb", 8 * 10**8), ("4096", 4096)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "two GB", "2 apples", "-1GB"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(InputError, match="expected one like 2GB"):
        parse_bytes(text)


def test_larger_pictures_make_smaller_batches() -> None:
    budget = make_budget(own_memory() + 2 * 10**9)
    assert 1 <= budget.frames(LARGE, 1) < budget.frames(SMALL, 1)


def test_a_budget_below_what_is_held_already_is_refused() -> None:
    with pytest.raises(BudgetError, match="before the first frame; give more"):
        make_budget(own_memory() // 2)


def test_it_says_how_much_a_video_needs() -> None:
    with pytest.raises(BudgetError, match=r"3840x2160; they need (\d+\.\d+) GB") as raised:
        make_budget(int(1.2 * own_memory()) + 10**8).frames(LARGE, 64)
    needed = re.search(r"need (\d+\.\d+) GB", str(raised.value))
    enough = make_budget(int((float(needed[1]) + 0.2) * 1e9))
    assert enough.frames(LARGE, 64) >= 64


def test_batches_are_as_small_as_the_budget_asks(tmp_path, monkeypatch) -> None:
    videos = {"long": write_video(tmp_path / "long.mp4", list(range(20, 220, 4)))}
    monkeypatch.setattr(MemoryBudget, "frames", lambda self, info, at_least: 3)
    backbone = Backbone()
    out = extract_features(videos, {}, backbone, tmp_path / "a", ROOMY, progress=False)
    assert not backbone.text
    assert backbone.seen[1:] == 8 * [3] + [1]  # the first was the trial
    free = extract_features(videos, {}, Backbone(), tmp_path / "b", Settings(1.0), progress=False)
    assert np.array_equal(out.video("long").tokens, free.video("long").tokens)


def test_the_text_tower_stays_where_sentences_are_encoded(tmp_path) -> None:
    videos = {"short": write_video(tmp_path / "short.mp4", [20, 40, 60, 80])}
    backbone = Backbone()
    queries = {1: "a red ball"}
    extract_features(videos, queries, backbone, tmp_path / "a", ROOMY, progress=False)
    assert backbone.text


def test_a_budget_too_small_is_no_fault_of_the_video(tmp_path) -> None:
    videos = {"short": write_video(tmp_path / "short.mp4", [20, 40, 60, 80])}
    report = Report()
    with pytest.raises(BudgetError):
        extract_features(
            videos,
            {},
            Backbone(),
            tmp_path / "a",
            Settings(1.0, memory=10**6),
            report=report,
            progress=False,
        )
    assert report == Report() and not (tmp_path / "a").exists()


def test_without_its_text_tower_a_backbone_gives_the_same_features() -> None:
    backbone = load_backbone("demo", layers=2)
    fingerprint = load_backbone("demo", layers=2).fingerprint
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 50, 3), np.uint8)
    before = backbone.encode_frames(frames)
    backbone.release_text()
    after = backbone.encode_frames(frames)
    assert torch.equal(before.tokens, after.tokens)
    assert backbone.fingerprint == fingerprint


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory as Linux does")
def test_the_command_stays_within_its_budget(tmp_path) -> None:
    video = write_video(tmp_path / "film.mp4", 10 * list(range(20, 220, 4)))
    command = [sys.executable, "-m", "sdst.extract", "--videos", str(video), "--clip-length", "1"]
    command += ["--backbone", "demo", "--output", str(tmp_path / "store"), "--memory-budget"]
    refused = subprocess.run([*command, "50MB"], capture_output=True, text=True)
    assert refused.returncode == 2 and "before the first frame" in refused.stderr
    limit = 1_000_000_000
    running = subprocess.Popen([*command, str(limit)], stderr=subprocess.DEVNULL)
    status, most = Path(f"/proc/{running.pid}/status"), 0
    while running.poll() is None:
        found = re.search(r"RssAnon:\s+(\d+)", status.read_text())
        most = max(most, 1024 * int(found[1])) if found else most
        time.sleep(0.01)
    assert running.returncode == 0
    assert 10**8 < most <= limit
