"""Training steps in graphs learn what eager ones learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.data.batches import Batch
from sdst.graphs import Capture
from sdst.training.graphs import StepGraphs
from sdst.training.trainer import Trainer
from tests.graphs import Faulty, Rerun, refuse
from tests.training.small import make_trainer, train, weights, write_store

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("training")
    write_store(folder)
    return folder


def in_graphs(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capture: Capture = Rerun,
    options: tuple[str, ...] = (),
    device: torch.device | None = None,
) -> Trainer:
    """A run whose steps are graphs by `capture`."""
    monkeypatch.setattr("sdst.training.trainer.make_capture", lambda *_: capture)
    return make_trainer(folder, options, device)


def graphs_of(trainer: Trainer) -> int:
    assert isinstance(trainer.stepper.step, StepGraphs)
    return len(trainer.stepper.step)


def assert_same_weights(found: Trainer, expected: Trainer) -> None:
    ours, theirs = weights(found), weights(expected)
    for name in theirs:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize(
    "options",
    [(), ("--model.context", "none"), ("--train.accumulation", "2")],
    ids=["sparse", "none", "accumulation"],
)
@pytest.mark.parametrize("device", [None, CPU], ids=["map", "resident"])
def test_steps_in_graphs_learn_what_eager_ones_learn(
    options: tuple[str, ...],
    device: torch.device | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    eager = make_trainer(folder, options, None)
    expected = train(eager, (1, 2, 3))
    trainer = in_graphs(folder, monkeypatch, options=options, device=device)
    assert train(trainer, (1, 2, 3)) == expected
    assert graphs_of(trainer) == 1, "one bucket, one graph"
    assert_same_weights(trainer, eager)
    assert trainer.stepper.rate == eager.stepper.rate


def test_a_resumed_run_in_graphs_ends_as_an_undisturbed_eager_one(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eager = make_trainer(folder)
    train(eager, (1, 2, 3, 4))
    first = in_graphs(folder, monkeypatch)
    train(first, (1, 2))
    first.stepper.save(tmp_path)
    second = in_graphs(folder, monkeypatch)
    second.stepper.load(tmp_path)
    train(second, (3, 4))
    assert graphs_of(second) == 1
    assert_same_weights(second, eager)
    # What a run in graphs leaves, an eager one takes up.
    monkeypatch.undo()
    third = make_trainer(folder)
    third.stepper.load(tmp_path)
    train(third, (3, 4))
    assert_same_weights(third, eager)


def test_every_bucket_has_a_graph_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpadded, batches have many shapes; those seen once or twice stay eager."""
    options = ("--data.pad_to", "1", "--train.batch_size", "4")
    eager = make_trainer(folder, options)
    expected = train(eager, range(1, 9))
    trainer = in_graphs(folder, monkeypatch, options=options)
    assert train(trainer, range(1, 9)) == expected
    assert graphs_of(trainer) > 1
    assert_same_weights(trainer, eager)


@pytest.mark.parametrize(
    ("capture", "line"),
    [
        (Faulty, "run eagerly: their graph gives loss and norm"),
        (refuse, "steps run eagerly from here on (operation not permitted when stream is"),
    ],
)
def test_a_graph_that_cannot_be_trusted_is_left_out_with_one_line(
    capture: Capture,
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    eager = make_trainer(folder)
    expected = train(eager, (1, 2, 3))
    trainer = in_graphs(folder, monkeypatch, capture)
    assert train(trainer, (1, 2, 3)) == expected
    assert graphs_of(trainer) == 0
    assert capfd.readouterr().out.count(line) == 1
    assert_same_weights(trainer, eager)


def test_a_replay_reads_its_own_buffers_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A captured kernel knows addresses: the batches of earlier steps are gone by then."""
    trainer = in_graphs(folder, monkeypatch)
    clone = Batch.clone

    def clone_and_spoil(batch: Batch) -> Batch:
        kept = clone(batch)
        batch.saliency.fill_(torch.nan)
        return kept

    monkeypatch.setattr(Batch, "clone", clone_and_spoil)
    losses = train(trainer, (1, 2, 3))
    assert graphs_of(trainer) == 1
    assert np.isfinite([loss["loss"] for loss in losses]).all()
