"""Dropout by hashing: its mask against the formula, its statistics, and its gradient."""

from __future__ import annotations

import pytest
import torch

from sdst.kernels import ImplementationError, dropout, library
from sdst.kernels.dropout import reference
from tests.kernels.threads import assert_same_bits_in_threads

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def run(implementation: str, x: torch.Tensor, rate: float, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return dropout(x, rate, implementation=implementation)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 1001, 200_000])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.99])
def test_native_keeps_what_the_formula_keeps(size: int, rate: float, dtype: torch.dtype) -> None:
    x = torch.randn(size).to(dtype)
    found, expected = run("native", x, rate), run("reference", x, rate)
    assert found.dtype == dtype
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found, expected)


@needs_native
def test_numbers_that_are_not_finite_stay_what_they_are_in_bf16() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 3e38, 1e-40]).bfloat16().repeat(5)
    for rate in (0.0, 0.5):
        torch.testing.assert_close(
            *(run(name, x, rate) for name in ("native", "reference")), equal_nan=True
        )


@needs_native
def test_other_number_types_are_left_to_pytorch() -> None:
    with pytest.raises(ImplementationError, match="only fp32 and bf16 are offered"):
        dropout(torch.ones(3).half(), 0.5, implementation="native")


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_its_numbers_look_random(implementation: str, rate: float) -> None:
    kept = (run(implementation, torch.ones(1000, 1000), rate) > 0).double()
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation / 1000
    # Neither neighbours, nor rows, nor the next seed know of each other: 1/1000 is one deviation.
    for other in (kept.roll(1, 1), kept.roll(1, 0), kept.roll(8, 1)):
        assert abs(torch.corrcoef(torch.stack((kept.flatten(), other.flatten())))[0, 1]) < 4e-3
    again = (run(implementation, torch.ones(1000, 1000), rate, seed=1) > 0).double()
    assert abs(torch.corrcoef(torch.stack((kept.flatten(), again.flatten())))[0, 1]) < 4e-3


def test_neighbouring_seeds_are_as_good_as_far_ones() -> None:
    first, second = (reference.numbers(10**6, torch.tensor(seed)) for seed in (5, 6))
    both = torch.stack((first, second)).double()
    assert abs(torch.corrcoef(both)[0, 1]) < 4e-3


def test_the_gradient_goes_where_the_value_went(implementation: str) -> None:
    x = torch.randn(40, 30, requires_grad=True)
    out = run(implementation, x, 0.3)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, (out != 0) / 0.7)


@needs_native
def test_native_gives_the_same_bits_in_any_number_of_threads() -> None:
    x = torch.randn(300_001)
    assert_same_bits_in_threads(lambda: [run("native", x, 0.5)])


@needs_native
def test_views_are_taken() -> None:
    x = torch.randn(30, 40)
    torch.testing.assert_close(run("native", x.t(), 0.5), run("native", x.t().contiguous(), 0.5))


@needs_native
def test_the_registered_op_is_sound() -> None:
    arguments = (torch.randn(5, 9, requires_grad=True), torch.tensor(7), 0.3)
    torch.library.opcheck(torch.ops.sdst.dropout.default, arguments)


def test_a_rate_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="rate is 1"):
        dropout(torch.ones(3), 1)
