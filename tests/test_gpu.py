"""What a CUDA device computes is what the CPU computes, without waiting for the host."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.measuring.gpu import captured
from benchmarks.measuring.steps import TrainingStep
from sdst import Grounder
from sdst.backbones import load_backbone
from sdst.config import load_config
from sdst.model import SDST, LossConfig, Targets, grounding_loss
from tests.model.small import random_inputs, random_targets, small_config
from tests.untrained import QUERIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
STILL = {"dropout": 0.0, "drop_path": 0.0, "projection_dropout": 0.0}
VARIANTS = [
    {"attention": "rdsa", "context": "sparse", "schedule": (4, 2, 1)},
    {"attention": "rdsa", "context": "none"},
    {"attention": "deformable", "context": "sparse"},
    {"attention": "cross", "context": "none"},
]


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any call that makes the host wait for the device fails."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_losses_and_gradients_are_those_of_the_cpu(variant: dict) -> None:
    torch.manual_seed(0)
    model = SDST(small_config(**variant, **STILL))
    twin = copy.deepcopy(model).cuda()
    inputs, targets = random_inputs(model.config), random_targets()
    loss, terms = grounding_loss(model(*inputs), targets, LossConfig())
    loss.backward()
    there = Targets(*(x.cuda() for x in vars(targets).values()))
    twin_loss, twin_terms = grounding_loss(twin(*(x.cuda() for x in inputs)), there, LossConfig())
    twin_loss.backward()
    for name, term in terms.items():
        torch.testing.assert_close(twin_terms[name].cpu(), term, rtol=1e-4, atol=1e-5, msg=name)
    for (name, mine), other in zip(twin.named_parameters(), model.parameters(), strict=True):
        if other.grad is not None:
            close = {"rtol": 1e-3, "atol": 1e-4 * max(1.0, other.grad.abs().max().item())}
            torch.testing.assert_close(mine.grad.cpu(), other.grad, **close, msg=name)


@pytest.fixture(params=["none", "sparse"])
def step(request: pytest.FixtureRequest) -> TrainingStep:
    """A whole training step of the paper's recipe, warmed up, everything on."""
    config = load_config("qvhighlights_internvideo2", ["--model.context", request.param])
    step = TrainingStep(config, batch=8, precision=torch.bfloat16, device="cuda")
    for _ in range(2):
        step()
    return step


def test_a_training_step_never_waits_for_the_device(step: TrainingStep, no_waiting) -> None:
    step()


def test_a_training_step_replayed_as_a_cuda_graph_learns(step: TrainingStep) -> None:
    """The same batch over and over; dropout draws anew in every replay."""
    replay = captured(step)
    losses = []
    for _ in range(60):
        replay()
        losses.append(step.loss.item())
    assert np.isfinite(losses).all()
    assert len(set(losses)) == len(losses)
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def epoch_losses(output: Path, options: list[str], device: str = "cuda") -> list[float]:
    """Of a run in a process of its own, which sees a GPU or none."""
    environment = {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}
    command = [sys.executable, "-m", "sdst.train", "--output", str(output), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["losses"]["loss"] for line in lines]


@pytest.fixture
def comparable(tiny_options: list[str]) -> list[str]:
    """Options of a run without chance and without rounding to bf16."""
    still = [part for name in STILL for part in (f"--model.{name}", "0")]
    return [*tiny_options, *still, "--train.precision", "fp32"]


def test_a_run_learns_what_a_run_on_the_cpu_learns(comparable, tmp_path) -> None:
    expected = epoch_losses(tmp_path / "cpu", comparable, "cpu")
    assert epoch_losses(tmp_path / "gpu", comparable) == pytest.approx(expected, rel=1e-2)
    resident = [*comparable, "--data.on_device", "true"]
    assert epoch_losses(tmp_path / "resident", resident) == pytest.approx(expected, rel=1e-2)


def test_a_run_in_bf16_learns(tiny_options, tmp_path) -> None:
    losses = epoch_losses(tmp_path / "run", [*tiny_options, "--train.precision", "auto"])
    assert losses[-1] < losses[0]


def test_a_run_in_cuda_graphs_learns_what_an_eager_one_learns(comparable, tmp_path) -> None:
    options = [*comparable, "--data.pad_to", "64", "--data.on_device", "true"]
    graphs = [*options, "--train.compile", "reduce-overhead"]
    expected = epoch_losses(tmp_path / "eager", options)
    assert epoch_losses(tmp_path / "graphs", graphs) == pytest.approx(expected, rel=1e-2)


def test_answers_are_those_of_the_cpu(untrained, own_cache, film) -> None:
    """The backbone computes in fp16 there."""
    here = Grounder(untrained, device="cpu").ground(film, QUERIES)
    there = Grounder(untrained, device="cuda").ground(film, QUERIES)
    for mine, theirs in zip(there, here, strict=True):
        np.testing.assert_allclose(mine.saliency, theirs.saliency, atol=2e-2)
        assert len(mine.windows) == len(theirs.windows)


def test_a_backbone_encodes_what_it_encodes_on_the_cpu() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 90, 120, 3), np.uint8)
    here, there = (load_backbone("demo", 4, device) for device in ("cpu", "cuda"))
    mine, theirs = there.encode_frames(frames), here.encode_frames(frames)
    for name in ("tokens", "embedding"):
        found, expected = getattr(mine, name).cpu(), getattr(theirs, name)
        assert (found - expected).norm() < 1e-2 * expected.norm()
