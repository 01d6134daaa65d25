"""Batched matching."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from sdst.kernels import linear_assignment


def test_it_finds_the_cheapest_of_all_assignments() -> None:
    cost = torch.randn(20, 5, 3, generator=torch.Generator().manual_seed(0))
    found = linear_assignment(cost, torch.full((20,), 3))
    for problem, rows in zip(cost, found, strict=True):
        every = [problem[list(p), range(3)].sum() for p in permutations(range(5), 3)]
        assert problem[rows, range(3)].sum() == pytest.approx(min(every).item(), abs=1e-6)


def test_columns_beyond_the_size_are_not_read_and_get_minus_one() -> None:
    cost = torch.randn(2, 4, 3)
    cost[0, :, 1:], cost[1] = torch.nan, torch.nan
    found = linear_assignment(cost, torch.tensor([1, 0]))
    assert found[0].tolist() == [int(cost[0, :, 0].argmin()), -1, -1]
    assert found[1].tolist() == [-1, -1, -1]


def test_a_cost_that_is_not_finite_is_an_error_that_names_the_problem() -> None:
    cost = torch.zeros(2, 3, 2)
    cost[1, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="problem 1"):
        linear_assignment(cost, torch.tensor([2, 2]))


def test_more_columns_than_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="rows"):
        linear_assignment(torch.zeros(1, 2, 3), torch.tensor([3]))


def test_an_empty_batch_gives_an_empty_answer() -> None:
    assert linear_assignment(torch.zeros(0, 4, 2), torch.zeros(0).long()).shape == (0, 2)
