"""The CUDA source of linear assignment, executed on the CPU: a fiber per lane of the warp."""

from __future__ import annotations

import pytest
import torch

from sdst.kernels import library, linear_assignment
from sdst.kernels.linear_assignment import cuda
from tests.kernels.warp_shim import shimmed

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def assign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("shim")
    with shimmed("linear_assignment", folder, request.param == "sanitized"):
        yield cuda.linear_assignment


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 5), (10, 4), (40, 33)])
def test_it_costs_what_scipys_answer_costs(assign, rows: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    cost = torch.randn(4, rows, columns, generator=generator)
    sizes = torch.randint(0, columns + 1, (4,), generator=generator)
    found = assign(cost, sizes)
    expected = linear_assignment(cost, sizes, implementation="reference")
    for problem, size in enumerate(sizes.tolist()):
        valid = range(size)
        mine, best = found[problem, :size], expected[problem, :size]
        assert len(set(mine.tolist())) == size
        assert cost[problem, mine, valid].sum() == pytest.approx(
            cost[problem, best, valid].sum().item(), abs=1e-5
        )
        assert (found[problem, size:] == -1).all()


def test_of_equal_costs_the_lower_rows_win(assign) -> None:
    assert assign(torch.zeros(1, 6, 3), torch.tensor([3])).sort().values.tolist() == [[0, 1, 2]]


@needs_native
def test_among_ties_it_gives_the_answer_of_the_cpu(assign) -> None:
    cost = torch.randint(0, 3, (20, 40, 9), generator=torch.Generator().manual_seed(0)).float()
    sizes = torch.full((20,), 9)
    assert torch.equal(assign(cost, sizes), linear_assignment(cost, sizes, implementation="native"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_problem_with_a_cost_that_is_not_finite_gets_minus_one(assign, value: float) -> None:
    cost = torch.zeros(2, 3, 2)
    cost[0, 2, 1] = value
    assert assign(cost, torch.tensor([2, 2]))[0].tolist() == [-1, -1]
    assert (assign(cost, torch.tensor([1, 2])) >= 0)[:, 0].all()  # beyond the size it is not read


@needs_native
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_gives_the_answer_of_the_cpu() -> None:
    cost = torch.randn(640, 10, 5, generator=torch.Generator().manual_seed(0)).round()
    sizes = torch.arange(640) % 6
    found = linear_assignment(cost.cuda(), sizes.cuda(), implementation="cuda")
    assert torch.equal(found.cpu(), linear_assignment(cost, sizes, implementation="native"))
