"""The analytic model counts what a step does."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring.steps import TrainingStep
from benchmarks.step_time import (
    H100,
    Machine,
    Operation,
    Work,
    device_seconds,
    predict_table,
    record_step,
)
from sdst.config import Config, load_config


def small_config() -> Config:
    overrides = {"layers": 2, "width": 32, "video_width": 16, "text_width": 16, "context": "sparse"}
    options = [part for key, value in overrides.items() for part in (f"--model.{key}", str(value))]
    return load_config("qvhighlights_internvideo2", options)


@pytest.fixture(scope="module")
def operations() -> list[Operation]:
    return record_step(small_config(), 2, torch.float32, real=True)


def test_the_arithmetic_is_what_pytorch_counts(operations: list[Operation]) -> None:
    step = TrainingStep(small_config(), 2)
    with FlopCounterMode(display=False) as counter:
        step()
    assert sum(o.work.flops for o in operations) == counter.get_total_flops()


def test_a_step_that_is_only_followed_counts_the_same(operations: list[Operation]) -> None:
    followed = record_step(small_config(), 2, torch.float32, real=False)
    assert [(o.name, o.part, o.work) for o in followed] == [
        (o.name, o.part, o.work) for o in operations
    ]


def test_backward_work_belongs_to_the_part_whose_forward_it_undoes(
    operations: list[Operation],
) -> None:
    # Two linear layers: one product each forwards, two each backwards.
    products = [o for o in operations if o.part == "visual_projection" and o.work.flops]
    assert [o.name for o in products] == ["addmm"] * 2 + ["mm"] * 4


def test_bf16_autocast_halves_what_products_move() -> None:
    def moved(precision: torch.dtype) -> list[int]:
        step = record_step(small_config(), 2, precision, real=False)
        return [o.work.bytes for o in step if o.name in ("mm", "addmm")]

    full, half = moved(torch.float32), moved(torch.bfloat16)
    made = [x for x, y in zip(full, half, strict=True) if x == y]  # weights of weights, once a pass
    assert len(made) < len(full) / 10
    assert sum(half) == pytest.approx((sum(full) + sum(made)) / 2, rel=0.01)


def test_a_product_takes_whole_waves_of_tiles() -> None:
    machine = Machine("", flops=100.0, bandwidth=1e9, units=4, launch=0.0, gap=0.0)
    full, one_more = (Operation("mm", "", Work(100 * n, 0, n), 0.0) for n in (4, 5))
    assert full.least(machine) == pytest.approx(4.0)
    assert one_more.least(machine) == pytest.approx(8.0)


def test_what_moves_much_is_bound_by_memory() -> None:
    copy = Operation("copy", "", Work(0, int(H100.bandwidth), 0), 0.0)
    assert device_seconds([copy], H100) == pytest.approx(1.0 + H100.gap)
    assert predict_table([copy], H100).splitlines()[-1].endswith("| memory |")


def test_views_and_empty_tensors_are_free(operations: list[Operation]) -> None:
    assert not {"view", "transpose", "expand", "empty", "detach"} & {o.name for o in operations}
