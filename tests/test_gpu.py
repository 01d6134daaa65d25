"""A CUDA device computes the same as the CPU, without waiting for the host."""

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
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measuring.gpu import captured
from benchmarks.measuring.steps import TrainingStep
from sdst import Grounder
from sdst.backbones import load_backbone
from sdst.config import load_config
from sdst.grounding.graphs import AnswerGraphs
from sdst.model import SDST, LossConfig, Targets, grounding_loss
from sdst.model.layers import take_rows
from sdst.training.graphs import StepGraphs
from sdst.training.trainer import Trainer
from tests.model.small import random_inputs, random_targets, small_config
from tests.training.small import make_trainer, train, write_store
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


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("resident", ["true", "false"])
def test_a_run_in_cuda_graphs_learns_what_an_eager_one_learns(
    comparable: list[str], precision: str, resident: str, tmp_path: Path
) -> None:
    """As by default; fp16 has graphs of its passes alone."""
    options = [*comparable, "--train.precision", precision, "--data.on_device", resident]
    options += ["--data.pad_to", "64", "--train.epochs", "6"]
    expected = epoch_losses(tmp_path / "eager", [*options, "--train.graphs", "no"])
    assert epoch_losses(tmp_path / "graphs", options) == pytest.approx(expected, rel=1e-2)


def test_accumulated_passes_in_cuda_graphs_learn_the_same(comparable, tmp_path) -> None:
    options = [*comparable, "--train.accumulation", "2", "--train.epochs", "6"]
    expected = epoch_losses(tmp_path / "eager", [*options, "--train.graphs", "no"])
    assert epoch_losses(tmp_path / "graphs", options) == pytest.approx(expected, rel=1e-2)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A run with dropout on random features, in graphs as by default."""
    write_store(tmp_path)
    return make_trainer(tmp_path, device=torch.device("cuda"))


def test_every_bucket_of_a_run_gets_a_graph_that_proves_itself(trainer: Trainer, capfd) -> None:
    losses = train(trainer, range(1, 5))
    assert isinstance(trainer.stepper.step, StepGraphs)
    assert len(trainer.stepper.step) == 1
    assert "eagerly" not in capfd.readouterr().out
    assert losses[-1]["loss"] < losses[0]["loss"]


def test_replayed_steps_never_wait_for_the_device(trainer: Trainer, no_waiting) -> None:
    torch.cuda.set_sync_debug_mode("default")  # a proof compares figures on the host
    train(trainer, (1, 2))
    batch = next(iter(trainer.loader))
    torch.cuda.set_sync_debug_mode("error")
    trainer.train_step(batch)


def test_a_seed_fixes_a_run(tmp_path: Path) -> None:
    """Attention is PyTorch's plain one: the gradients of fused ones may be summed in any order."""
    write_store(tmp_path)
    found = []
    for _ in range(2):
        trainer = make_trainer(tmp_path, ["--model.context", "none"], torch.device("cuda"))
        with sdpa_kernel(SDPBackend.MATH):
            train(trainer, (1, 2, 3))
        found.append([x.cpu() for x in trainer.bare_model.state_dict().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_repeated_rows_have_the_same_gradient_every_time() -> None:
    index = torch.randint(50, (4000,)).sort().values.cuda()
    rows, grad = torch.randn(60, 256).cuda().requires_grad_(), torch.randn(4000, 256).cuda()
    found = [torch.autograd.grad(take_rows(rows, index), rows, grad)[0] for _ in range(20)]
    expected = torch.autograd.grad(rows.index_select(0, index), rows, grad)[0]
    assert all(torch.equal(x, found[0]) for x in found)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def test_answers_are_those_of_the_cpu(untrained, own_cache, film) -> None:
    """The backbone computes in fp16 there."""
    here = Grounder(untrained, device="cpu").ground(film, QUERIES)
    there = Grounder(untrained, device="cuda").ground(film, QUERIES)
    for mine, theirs in zip(there, here, strict=True):
        np.testing.assert_allclose(mine.saliency, theirs.saliency, atol=2e-2)
        assert len(mine.windows) == len(theirs.windows)


@pytest.mark.parametrize("stretch", [40, 8], ids=["whole", "in windows"])
def test_answers_of_graphs_are_the_eager_ones(untrained, own_cache, film, stretch) -> None:
    found, expected = Grounder(untrained, device="cuda"), Grounder(untrained, device="cuda")
    expected.graphs = AnswerGraphs(expected.model, None)
    for grounder in (found, expected):
        grounder.config.predict.stretch, grounder.config.predict.overlap = stretch, stretch // 2
    found.warm(queries=(1, 2))
    assert len(found.graphs)
    for queries in (QUERIES, QUERIES[:1], QUERIES):
        answers = zip(found.ground(film, queries), expected.ground(film, queries), strict=True)
        for one, other in answers:
            np.testing.assert_allclose(one.windows, other.windows, atol=1e-3)
            np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-3)


def test_a_backbone_encodes_what_it_encodes_on_the_cpu() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 90, 120, 3), np.uint8)
    here, there = (load_backbone("demo", 4, device) for device in ("cpu", "cuda"))
    mine, theirs = there.encode_frames(frames), here.encode_frames(frames)
    for name in ("tokens", "embedding"):
        found, expected = getattr(mine, name).cpu(), getattr(theirs, name)
        assert (found - expected).norm() < 1e-2 * expected.norm()
