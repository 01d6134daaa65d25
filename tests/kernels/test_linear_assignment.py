"""Batched matching: every implementation that runs here, against scipy and against all answers."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sdst.kernels import (
    ImplementationError,
    NonFiniteCostError,
    library,
    linear_assignment,
    unsupported_reasons,
)
from tests.kernels.threads import assert_same_bits_in_threads

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "reference"])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


def totals(cost: Tensor, rows: Tensor) -> Tensor:
    """[B] total cost of the assigned pairs, in fp64; checks that no row is taken twice."""
    taken = rows >= 0
    for problem, valid in zip(rows, taken, strict=True):
        assert problem[valid].unique().numel() == valid.sum()
    pairs = cost.double().gather(1, rows.clamp(min=0)[:, None]).squeeze(1)
    return pairs.where(taken, 0).sum(1)


def test_it_finds_the_cheapest_of_all_assignments(implementation: str) -> None:
    cost = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0))
    found = linear_assignment(cost, torch.full((20,), 3), implementation=implementation)
    for problem, rows in zip(cost, found, strict=True):
        every = [problem[list(p), range(3)].sum() for p in permutations(range(5), 3)]
        assert problem[rows, range(3)].sum() == pytest.approx(min(every).item(), abs=1e-6)


@needs_native
@pytest.mark.parametrize("kind", ["normal", "integers with many ties", "of very different scale"])
@pytest.mark.parametrize(("rows", "columns"), [(10, 5), (7, 7), (33, 1), (40, 17)])
def test_native_costs_what_scipys_answer_costs(rows: int, columns: int, kind: str) -> None:
    """Ten thousand problems over all parameters."""
    count = 1000 if rows <= 10 else 700
    generator = torch.Generator().manual_seed(rows)
    cost = torch.randn(count, rows, columns, generator=generator)
    if kind == "integers with many ties":
        cost = cost.round()
    elif kind == "of very different scale":
        cost = cost * 10 ** (cost.roll(1, 0) * 4)
    sizes = torch.randint(0, columns + 1, (count,), generator=generator)
    found = linear_assignment(cost, sizes, implementation="native")
    assert torch.equal((found >= 0).sum(1), sizes)
    best = []
    for problem, size in zip(cost.double().numpy(), sizes.tolist(), strict=True):
        row, column = linear_sum_assignment(problem[:, :size])
        best.append(problem[row, column].sum())
    scale = cost.abs().amax((1, 2)).double()
    torch.testing.assert_close(
        totals(cost, found) / scale, torch.from_numpy(np.array(best)) / scale, rtol=0, atol=1e-12
    )


@needs_native
def test_of_equal_costs_the_lower_rows_win() -> None:
    found = linear_assignment(torch.zeros(1, 6, 3), torch.tensor([3]), implementation="native")
    assert found.sort().values.tolist() == [[0, 1, 2]]


def test_columns_beyond_the_size_are_not_read_and_get_minus_one(implementation: str) -> None:
    cost = torch.randn(2, 4, 3)
    cost[0, :, 1:], cost[1] = torch.nan, torch.nan
    found = linear_assignment(cost, torch.tensor([1, 0]), implementation=implementation)
    assert found[0].tolist() == [int(cost[0, :, 0].argmin()), -1, -1]
    assert found[1].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_cost_that_is_not_finite_is_an_error_that_names_the_problem(
    implementation: str, value: float
) -> None:
    cost = torch.zeros(2, 3, 2)
    cost[1, 0, 0] = value
    with pytest.raises(NonFiniteCostError, match="problem 1 has a non-finite cost"):
        linear_assignment(cost, torch.tensor([2, 2]), implementation=implementation)


def test_more_columns_than_rows_is_an_error(implementation: str) -> None:
    with pytest.raises(ValueError, match="rows"):
        linear_assignment(torch.zeros(1, 2, 3), torch.tensor([3]), implementation=implementation)


@pytest.mark.parametrize(
    ("cost", "sizes", "message"),
    [
        ((3, 4), (3,), r"cost is \[3, 4\], expected \[B, M, G\]"),
        ((3, 4, 2), (2,), r"sizes is \[2\], expected \[3\]"),
        ((3, 4, 2), (), r"sizes is \[\], expected \[3\]"),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(
    implementation: str, cost: tuple[int, ...], sizes: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^linear_assignment: {message}"):
        linear_assignment(
            torch.zeros(cost), torch.ones(sizes, dtype=int), implementation=implementation
        )


@pytest.mark.parametrize("shape", [(0, 4, 2), (3, 4, 0), (3, 0, 0)])
def test_an_empty_batch_gives_an_empty_answer(
    implementation: str, shape: tuple[int, int, int]
) -> None:
    sizes = torch.zeros(shape[0], dtype=torch.int64)
    found = linear_assignment(torch.zeros(shape), sizes, implementation=implementation)
    assert found.shape == (shape[0], shape[2])


@needs_native
def test_native_takes_views_and_16_bit_costs() -> None:
    cost = torch.randn(6, 3, 9, generator=torch.Generator().manual_seed(0)).bfloat16().mT
    sizes = torch.tensor([3, 1, 2, 3, 0, 3], dtype=torch.int32)
    found = linear_assignment(cost, sizes, implementation="native")
    expected = linear_assignment(cost, sizes, implementation="reference")
    torch.testing.assert_close(totals(cost, found), totals(cost, expected))


@needs_native
def test_native_gives_the_same_answer_in_any_number_of_threads() -> None:
    cost = torch.randn(640, 10, 5, generator=torch.Generator().manual_seed(0)).round()
    sizes = torch.full((640,), 5)
    assert_same_bits_in_threads(lambda: [linear_assignment(cost, sizes, implementation="native")])


def test_the_registered_op_is_sound(implementation: str) -> None:
    op = getattr(torch.ops.sdst, f"linear_assignment_{implementation}").default
    torch.library.opcheck(op, (torch.randn(3, 4, 2), torch.tensor([2, 1, 0])))


@needs_native
def test_native_says_why_it_does_not_fit() -> None:
    cost, sizes = torch.zeros(1, 2, 1).double(), torch.tensor([1])
    assert "float64" in unsupported_reasons("linear_assignment", "native", cost, sizes)[0]
    with pytest.raises(ImplementationError, match="float64"):
        linear_assignment(cost, sizes, implementation="native")
