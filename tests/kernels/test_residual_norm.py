"""Residuals against PyTorch's layers, implementation against implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import ImplementationError, library, residual_norm
from sdst.kernels.residual_norm import reference
from tests.kernels.threads import assert_same_bits_in_threads

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
Rates = tuple[float, float]
NONE: Rates = (0.0, 0.0)
RATES: tuple[Rates, ...] = (NONE, (0.3, 0.0), (0.0, 0.4), (0.3, 0.4))


def make_inputs(
    length: int = 7,
    width: int = 19,
    batch: int = 4,
    dtypes: tuple[torch.dtype, torch.dtype] = (torch.float32, torch.float32),
) -> Inputs:
    """x, branch, weight and bias; x and branch in `dtypes`."""
    generator = torch.Generator().manual_seed(0)
    x, branch = (
        (2 * torch.randn(batch, length, width, generator=generator) + 1).to(dtype)
        for dtype in dtypes
    )
    weight, bias = (torch.randn(width, generator=generator) for _ in range(2))
    return x, branch, weight, bias


def run(implementation: str, inputs: Inputs, rates: Rates = NONE) -> list[Tensor]:
    """The output and the gradients of all inputs under a fixed upstream gradient."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    torch.manual_seed(0)
    out = residual_norm(*leaves, *rates, implementation=implementation)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_as_exact_as_the_reference(
    inputs: Inputs, found: list[Tensor], rates: Rates = NONE
) -> None:
    """At most twice the reference's own error, plus 1e-5 of the scale."""
    exact = run("reference", tuple(x.double() for x in inputs), rates)
    plain = run("reference", inputs, rates)
    for truth, ours, mine in zip(exact, plain, found, strict=True):
        assert mine.dtype == ours.dtype
        if truth.numel():
            allowed = 2 * (ours - truth).abs().max() + 1e-5 * truth.abs().max().clamp(min=1)
            assert (mine - truth).abs().max() <= allowed


def skip_without(name: str) -> None:
    if name == "native" and library.missing_reason() is not None:
        pytest.skip(str(library.missing_reason()))


@pytest.mark.parametrize("name", ["native", "torch", "reference"])
def test_without_dropping_it_is_the_layer_norm_of_the_sum(name: str) -> None:
    skip_without(name)
    x, branch, weight, bias = inputs = make_inputs()
    expected = functional.layer_norm(x + branch, weight.shape, weight, bias)
    torch.testing.assert_close(run(name, inputs)[0], expected)


@pytest.mark.parametrize("rates", RATES)
def test_gradients_of_the_reference(rates: Rates) -> None:
    inputs = tuple(x.double().requires_grad_() for x in make_inputs(3, 5, 2))
    seed = torch.tensor(7)
    assert torch.autograd.gradcheck(lambda *x: reference.residual_norm(*x, seed, *rates), inputs)


@needs_native
@pytest.mark.parametrize("rates", RATES)
@pytest.mark.parametrize("width", [1, 8, 19, 96])
@pytest.mark.parametrize("length", [1, 9, 150])
def test_native_agrees_with_the_reference(length: int, width: int, rates: Rates) -> None:
    inputs = make_inputs(length, width)
    assert_as_exact_as_the_reference(inputs, run("native", inputs, rates), rates)


@needs_native
@pytest.mark.parametrize("x", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("branch", [torch.float32, torch.bfloat16])
def test_dtypes_of_autocast(x: torch.dtype, branch: torch.dtype) -> None:
    inputs = make_inputs(dtypes=(x, branch))
    found = run("native", inputs, (0.3, 0.4))
    assert [y.dtype for y in found[:3]] == [torch.float32, x, branch]
    assert_as_exact_as_the_reference(inputs, found, (0.3, 0.4))


def test_dropped_samples_and_elements_of_the_branch_do_not_show(implementation: str) -> None:
    x, branch, weight, bias = make_inputs(length=9, batch=8)
    samples = gradient_of_branch(implementation, make_inputs(length=9, batch=8), (0.0, 0.5))
    dropped = (samples == 0).all(-1).all(-1)
    assert 0 < dropped.sum() < 8
    assert ((samples != 0).any(-1).any(-1) == ~dropped).all()
    garbage = branch.masked_fill(dropped[:, None, None], torch.nan)
    found = run(implementation, (x, garbage, weight, bias), (0.0, 0.5))
    clean = run(implementation, (x, branch, weight, bias), (0.0, 0.5))
    assert all(map(torch.equal, found, clean))
    elements = gradient_of_branch(implementation, make_inputs(), (0.5, 0.0)) == 0
    assert 0.3 < elements.float().mean() < 0.7


def gradient_of_branch(implementation: str, inputs: Inputs, rates: Rates) -> Tensor:
    return run(implementation, inputs, rates)[2]


@pytest.mark.parametrize("name", ["native", "torch", "reference"])
def test_what_is_kept_makes_up_for_what_is_dropped(name: str) -> None:
    skip_without(name)
    x, branch, weight, bias = make_inputs(5, 8, 400)
    inputs = x, torch.zeros_like(branch), torch.ones_like(weight), bias
    _, stream, branch, *_ = run(name, inputs, (0.2, 0.3))
    assert abs((branch != 0).float().mean() - 0.8 * 0.7) < 0.03
    kept = branch != 0
    torch.testing.assert_close(branch[kept], stream[kept] / (0.8 * 0.7))


@needs_native
def test_native_gives_the_same_bits_in_any_number_of_threads() -> None:
    inputs = make_inputs(length=301, width=33)
    assert_same_bits_in_threads(lambda: run("native", inputs, (0.3, 0.4)))


def test_views_and_expanded_inputs(implementation: str) -> None:
    x, branch, weight, bias = make_inputs()
    for stream in (x[:1].expand_as(x), x.mT.contiguous().mT):
        found = run(implementation, (stream, branch, weight, bias), (0.3, 0.4))
        expected = run(implementation, (stream.contiguous(), branch, weight, bias), (0.3, 0.4))
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("shape", [(0, 7), (4, 0)])
def test_no_rows(implementation: str, shape: tuple[int, int]) -> None:
    batch, length = shape
    out, x, branch, weight, bias = run(implementation, make_inputs(length, 19, batch), (0.3, 0.4))
    assert out.shape == x.shape == branch.shape == (*shape, 19)
    assert torch.equal(torch.stack((weight, bias)), torch.zeros(2, 19))


@needs_native
@pytest.mark.parametrize("rates", [NONE, (0.3, 0.4)])
def test_the_registered_op_is_sound(rates: Rates) -> None:
    leaves = [x.requires_grad_() for x in make_inputs()]
    seed = torch.tensor(7) if any(rates) else None
    op = torch.ops.sdst.residual_norm_forward.default
    torch.library.opcheck(op, (*leaves, seed, *rates))


@needs_native
def test_other_dtypes_are_left_to_pytorch() -> None:
    inputs = tuple(x.half() for x in make_inputs())
    with pytest.raises(ImplementationError, match=r"weight is torch\.float16, only fp32"):
        residual_norm(*inputs, implementation="native")
    assert residual_norm(*inputs).dtype == torch.float16


@pytest.mark.parametrize("rates", [(1.0, 0.0), (0.0, -0.1)])
def test_a_rate_out_of_range_is_refused(rates: Rates) -> None:
    with pytest.raises(ValueError, match=r"residual_norm: (dropout|drop_path) is .*, expected 0"):
        residual_norm(*make_inputs(), *rates)


def test_a_branch_of_another_shape_is_refused() -> None:
    x, branch, weight, bias = make_inputs()
    with pytest.raises(ValueError, match=r"branch is \[4, 6, 19\], expected \[4, 7, 19\]"):
        residual_norm(x, branch[:, 1:], weight, bias)
