"""Marking by saliency against its definition, implementation against implementation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import ImplementationError, mark_saliency
from sdst.kernels.mark_saliency.reference import standardised
from tests.kernels.threads import assert_same_bits_in_threads

pytestmark = pytest.mark.usefixtures("implementation")
native_only = pytest.mark.parametrize("implementation", ["native"], indirect=True)
Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]


def make_inputs(
    clips: int = 7, width: int = 19, dtype: torch.dtype = torch.float32, batch: int = 4
) -> Inputs:
    """dense, sentence, direction, and lengths: all clips, half of them, one, none."""
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(batch, clips, width, generator=generator).to(dtype)
    sentence = torch.randn(batch, width, generator=generator).to(dtype)
    direction = torch.randn(width, generator=generator)
    return dense, sentence, direction, torch.tensor([clips, clips // 2, 1, 0] * batch)[:batch]


def run(implementation: str, inputs: Inputs) -> list[Tensor]:
    """The output and the gradients of dense and direction under a fixed upstream gradient."""
    dense, sentence, direction, lengths = inputs
    leaves = [x.detach().requires_grad_() for x in (dense, direction)]
    out = mark_saliency(leaves[0], sentence, leaves[1], lengths, implementation=implementation)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_as_exact_as_the_reference(inputs: Inputs, found: list[Tensor]) -> None:
    """At most twice the reference's own error, plus 1e-5 of the scale."""
    dense, sentence, direction, lengths = inputs
    precise = (dense.double(), sentence.double(), direction.double(), lengths)
    exact, plain = run("reference", precise), run("reference", inputs)
    for truth, reference, mine in zip(exact, plain, found, strict=True):
        assert mine.dtype == reference.dtype
        if truth.numel():
            allowed = 2 * (reference - truth).abs().max() + 1e-5 * truth.abs().max().clamp(min=1)
            assert (mine - truth).abs().max() <= allowed


def test_it_adds_the_direction_times_the_standardised_cosine() -> None:
    dense, sentence, direction, lengths = inputs = make_inputs()
    out = mark_saliency(*inputs)
    for i, length in enumerate(lengths.tolist()):
        scores = functional.cosine_similarity(dense[i], sentence[i], dim=-1).tolist()
        valid = scores[:length]
        mean = sum(valid) / max(length, 1)
        variance = sum((x - mean) ** 2 for x in valid) / max(length, 1)
        for t, score in enumerate(scores):
            z = (score - mean) / math.sqrt(variance + 1e-6) if t < length else 0.0
            torch.testing.assert_close(out[i, t], dense[i, t] + z * direction, atol=1e-4, rtol=0)


def test_standardised_over_the_valid_clips() -> None:
    values = torch.tensor([[1.0, 2.0, 3.0, torch.nan], [5.0, torch.inf, 0.0, 0.0]])
    z = standardised(values, torch.tensor([3, 1]))
    side = 1.5**0.5
    expected = torch.tensor([[-side, 0.0, side, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)


@native_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 8, 33, 96])
@pytest.mark.parametrize("clips", [1, 9, 150])
def test_native_agrees_with_the_reference(clips: int, width: int, dtype: torch.dtype) -> None:
    inputs = make_inputs(clips, width, dtype)
    assert_as_exact_as_the_reference(inputs, run("native", inputs))


@native_only
def test_halves_are_rounded_as_pytorch_rounds() -> None:
    """Every half, the middle of every two, its neighbours, and what is too large."""
    halves = torch.arange(0x7C00, dtype=torch.int16).view(torch.float16).float()
    middle = (halves[1:] + halves[:-1]) / 2
    up, down = (torch.nextafter(middle, torch.tensor(x)) for x in (torch.inf, -torch.inf))
    large = torch.tensor([65519.0, 65520.0, 1e6, 1e30, torch.inf])
    values = torch.cat((middle, halves, up, down, large))
    width = 1 + len(values)
    first = torch.zeros(1, 1, width)
    first[..., 0] = 1
    dense = torch.cat((first, -first), 1).half()  # cosines 1 and -1
    call = (dense, first[0], torch.zeros(width), None)
    _, z = torch.ops.sdst.mark_saliency_forward(*call)
    added = torch.cat((torch.zeros(1), values / z[0, 0]))
    out = mark_saliency(dense, first[0], added)
    product = z[..., None] * added
    assert (product[0, 0, 1:][: len(middle)] == middle).float().mean() > 0.5  # ties are hit
    assert torch.equal(out[..., 1:], product[..., 1:].half())


def test_nothing_beyond_the_lengths_reaches_a_valid_clip() -> None:
    inputs = make_inputs()
    dense, sentence, direction, lengths = inputs
    clean = mark_saliency(*inputs)
    beyond = torch.arange(dense.shape[1]) >= lengths[:, None]
    for garbage in (torch.nan, torch.inf):
        dirty = dense.masked_fill(beyond[..., None], garbage)
        found = mark_saliency(dirty, sentence, direction, lengths)
        assert torch.equal(found[~beyond], clean[~beyond])
        torch.testing.assert_close(found[beyond], dirty[beyond], rtol=0, atol=0, equal_nan=True)


def test_single_clips_and_what_lies_beyond_the_lengths_stay_as_they_are() -> None:
    dense, sentence, direction, lengths = make_inputs()
    out = mark_saliency(dense, sentence, direction, lengths)
    assert torch.equal(out[2:], dense[2:])  # of lengths 1 and 0
    assert torch.equal(out[1, lengths[1] :], dense[1, lengths[1] :])
    single = dense[:, :1]
    assert torch.equal(mark_saliency(single, sentence, direction), single)


def test_clips_and_sentences_of_nothing_have_cosine_zero() -> None:
    dense, sentence, direction, _ = make_inputs()
    dense[0, 0], sentence[1] = 0, 0
    out = mark_saliency(dense, sentence, direction)
    assert out.isfinite().all()
    assert torch.equal(out[1], dense[1])


def test_lengths_end_with_the_clips() -> None:
    dense, sentence, direction, _ = make_inputs(batch=2)
    found = mark_saliency(dense, sentence, direction, torch.tensor([9, -1]))
    expected = mark_saliency(dense, sentence, direction, torch.tensor([7, 0]))
    assert torch.equal(found, expected)
    whole = mark_saliency(dense, sentence, direction)
    assert torch.equal(whole[0], expected[0])


def test_only_dense_and_direction_get_a_gradient() -> None:
    inputs = [x.requires_grad_() for x in make_inputs()[:3]]
    out = mark_saliency(*inputs)
    upstream = torch.randn(out.shape)
    out.backward(upstream)
    dense, sentence, direction = inputs
    assert sentence.grad is None
    assert torch.equal(dense.grad, upstream)
    z = ((out - dense) @ direction / (direction @ direction)).detach()
    torch.testing.assert_close(direction.grad, torch.einsum("bl,blf->f", z, upstream))


@native_only
def test_the_gradient_of_dense_is_no_copy() -> None:
    dense, sentence, direction, lengths = make_inputs()
    out = mark_saliency(dense.requires_grad_(), sentence, direction, lengths)
    upstream = torch.randn(out.shape)
    (grad,) = torch.autograd.grad(out, dense, upstream)
    assert grad.data_ptr() == upstream.data_ptr()


def test_gradcheck_in_double() -> None:
    """z is a constant: gradcheck of dense sees it move, so it checks the direction alone."""
    dense, sentence, direction, lengths = make_inputs(clips=4, width=5)

    def mark(direction: Tensor) -> Tensor:
        inputs = (dense.double(), sentence.double(), direction, lengths)
        return mark_saliency(*inputs, implementation="reference")

    assert torch.autograd.gradcheck(mark, direction.double().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_arithmetic_is_the_same(dtype: torch.dtype) -> None:
    inputs = make_inputs(dtype=dtype)
    expected = mark_saliency(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = mark_saliency(*inputs)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


def test_a_sentence_of_another_dtype() -> None:
    dense, sentence, direction, lengths = make_inputs()
    found = mark_saliency(dense, sentence.bfloat16(), direction, lengths)
    expected = mark_saliency(dense, sentence.bfloat16().float(), direction, lengths)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(0, 7, 19), (4, 0, 19)])
def test_nothing_to_mark(shape: tuple[int, ...], implementation: str) -> None:
    dense, sentence = torch.zeros(shape), torch.zeros(shape[0], shape[2])
    inputs = (dense, sentence, torch.ones(shape[2]), torch.ones(shape[0], dtype=torch.int64))
    out, grad_dense, grad_direction = run(implementation, inputs)
    assert out.shape == grad_dense.shape == shape
    assert torch.equal(grad_direction, torch.zeros(shape[2]))


@native_only
def test_views_and_expanded_inputs() -> None:
    dense, sentence, direction, lengths = inputs = make_inputs()
    step = torch.stack((sentence, sentence), 1)[:, 1]
    every_other = torch.stack((direction, direction), 1)[:, 0]
    views = [
        dense.transpose(1, 2).contiguous().transpose(1, 2),
        torch.cat((dense, dense), 1)[:, : dense.shape[1]],
    ]
    expected = run("native", inputs)
    for view in views:
        found = run("native", (view, step, every_other, lengths))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    shared = dense[:1].expand_as(dense)
    found, expected = (
        mark_saliency(x, sentence, direction, lengths) for x in (shared, shared.contiguous())
    )
    assert torch.equal(found, expected)


def test_an_expanded_gradient() -> None:
    dense, sentence, direction, lengths = make_inputs()
    out = mark_saliency(dense, sentence, direction.requires_grad_(), lengths)
    (found,) = torch.autograd.grad(out.sum(), direction)  # of ones, with strides 0
    assert found.abs().max() < 1e-4  # every z has mean 0


@native_only
@pytest.mark.parametrize("shape", [(9, 30, 64), (1, 700, 24), (3, 130, 33)])
def test_the_number_of_threads_changes_nothing(shape: tuple[int, int, int]) -> None:
    batch, clips, width = shape
    inputs = make_inputs(clips, width, batch=batch)
    assert_same_bits_in_threads(lambda: run("native", inputs))


@native_only
def test_the_op_is_well_registered() -> None:
    dense, sentence, direction, lengths = make_inputs()
    arguments = (dense.requires_grad_(), sentence, direction.requires_grad_(), lengths)
    torch.library.opcheck(torch.ops.sdst.mark_saliency_forward.default, arguments)


@native_only
@pytest.mark.slow
def test_it_compiles_into_one_graph() -> None:
    dense, sentence, direction, lengths = make_inputs()
    leaves, upstream = (dense.requires_grad_(), direction.requires_grad_()), torch.randn(4, 7, 19)
    compiled = torch.compile(mark_saliency, fullgraph=True, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(mark(dense, sentence, direction, lengths), leaves, upstream)
        for mark in (compiled, mark_saliency)
    )
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@native_only
def test_what_does_not_fit_is_said() -> None:
    dense, *rest = make_inputs()
    with pytest.raises(ImplementationError, match=r"dense is torch\.float64"):
        mark_saliency(dense.double(), *rest)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    dense, sentence, direction, lengths = make_inputs()
    with pytest.raises(ValueError, match=r"dense is \[4, 7\], expected \[B, L, F\]"):
        mark_saliency(dense[..., 0], sentence, direction)
    for other in (sentence[:, :-1], sentence[:1]):
        with pytest.raises(ValueError, match=r"sentence is .*, expected \[4, 19\]"):
            mark_saliency(dense, other, direction)
    for other in (direction[:-1], direction[None]):
        with pytest.raises(ValueError, match=r"direction is .*, expected \[19\]"):
            mark_saliency(dense, sentence, other)
    with pytest.raises(ValueError, match=r"lengths is \[2\], expected \[4\]"):
        mark_saliency(dense, sentence, direction, lengths[:2])
