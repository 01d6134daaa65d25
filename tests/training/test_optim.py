"""Parameter groups of the optimizer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sdst.config import TrainConfig
from sdst.model import SDST, ModelConfig
from sdst.training.optim import make_optimizer, make_scheduler

MODEL = ModelConfig(layers=2, video_width=8, text_width=8, width=16, heads=2)


def rates(attention: str, **changes: object) -> dict[str, float]:
    """Learning rate of every parameter."""
    model = SDST(dataclasses.replace(MODEL, attention=attention))
    config = dataclasses.replace(TrainConfig(lr=1e-3, warmup_steps=10), **changes)
    optimizer = make_optimizer(model, config)
    make_scheduler(optimizer, config, total_steps=100)  # the first of ten steps of warm-up
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(x)]: group["lr"] for group in groups for x in group["params"]}


@pytest.mark.parametrize(
    ("attention", "steering"), [("rdsa", ("offsets", "query")), ("deformable", ("offsets",))]
)
def test_what_decides_where_to_sample_learns_at_its_share_of_the_rate(
    attention: str, steering: tuple[str, ...]
) -> None:
    found = rates(attention, offsets_lr=0.1)
    slow = {name for name, rate in found.items() if rate == pytest.approx(1e-5)}
    assert slow == {
        f"sparse_block.reader.{name}.{part}" for name in steering for part in ("weight", "bias")
    }
    assert all(found[name] == pytest.approx(1e-4) for name in found.keys() - slow)


@pytest.mark.parametrize(("attention", "share"), [("rdsa", 1.0), ("cross", 0.1)])
def test_without_slower_offsets_there_are_two_groups(attention: str, share: float) -> None:
    """As checkpoints of older runs have them."""
    model = SDST(dataclasses.replace(MODEL, attention=attention))
    config = TrainConfig(offsets_lr=share)
    decays = [group["weight_decay"] for group in make_optimizer(model, config).param_groups]
    assert decays == [config.weight_decay, 0.0]


def test_only_matrices_decay() -> None:
    model = SDST(MODEL)
    optimizer = make_optimizer(model, TrainConfig(offsets_lr=0.1))
    queries = {id(parameter) for parameter in model.queries.parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            decayed = parameter.ndim >= 2 and id(parameter) not in queries
            assert (group["weight_decay"] > 0) == decayed
    parameters = [x for group in optimizer.param_groups for x in group["params"]]
    assert sum(map(torch.numel, parameters)) == sum(x.numel() for x in model.parameters())
