"""Batches padded to few shapes, and training on them with compiled blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.studies.buckets import DATASETS, count
from sdst.config import load_config
from sdst.data.batches import BUCKETS, TIGHT, Multiples, collate
from sdst.model import SDST
from sdst.sources.dataset import open_data
from sdst.train import main
from sdst.training.step import batch_loss, targets_of


def tiny_batch(options: list[str], multiple: int):
    config = load_config("demo", options)
    data = open_data(config)
    dataset = data.dataset("train")
    return data.config, collate([dataset[i] for i in range(6)], Multiples(*[multiple] * 3))


@pytest.mark.parametrize("context", ["none", "sparse"])
def test_padding_changes_neither_losses_nor_gradients(tiny_options, context: str) -> None:
    results = []
    for multiple in (1, 16):
        config, batch = tiny_batch([*tiny_options, "--model.context", context], multiple)
        torch.manual_seed(0)
        model = SDST(config.model)
        loss, terms, _ = batch_loss(model, batch.inputs(), targets_of(batch), config.loss)
        gradients = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
        results.append((terms, [g for g in gradients if g is not None]))
        sizes = (batch.video.shape[2], batch.text.shape[2], batch.spans.shape[1])
        assert all(size % multiple == 0 for size in sizes)
    (terms, gradients), (padded_terms, padded_gradients) = results
    torch.testing.assert_close(padded_terms, terms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(padded_gradients, gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dataset", DATASETS)
def test_real_batches_take_few_shapes(shared_data: Path, dataset: str) -> None:
    if not all((shared_data / file).is_file() for file in DATASETS[dataset].files):
        pytest.skip(f"{dataset}'s annotations are not here")
    unpadded, padded = (count(shared_data, dataset, by, epochs=2) for by in (TIGHT, BUCKETS))
    assert len(padded) < len(unpadded) / 3
    assert len(padded) <= 40


def test_a_compiled_run_learns_what_a_plain_one_learns(tiny_options, tmp_path, monkeypatch) -> None:
    """As the compiler traces it; what Inductor makes of a graph is for PyTorch to test."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]):
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile(f, backend=backend))
    torch.compiler.reset()
    options = [*tiny_options, "--data.pad_to", "64", "--model.dropout", "0"]
    reports = {}
    for how in ("no", "default"):
        assert main(["--output", str(tmp_path / how), *options, "--train.compile", how]) == 0
        lines = (tmp_path / how / "metrics.jsonl").read_text().splitlines()
        reports[how] = [json.loads(line)["losses"]["loss"] for line in lines]
    assert reports["default"] == pytest.approx(reports["no"], rel=1e-3)
    assert graphs
