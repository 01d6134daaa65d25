"""Deformable attention: reference against other formulations, native against the reference."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import ImplementationError, deformable_attention, library, unsupported_reasons
from tests.kernels.threads import assert_same_bits_in_threads

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
# B, L, M, H, C, S
SHAPES = [(2, 9, 5, 2, 8, 4), (1, 1, 1, 1, 1, 1), (3, 17, 4, 3, 5, 2), (2, 75, 10, 8, 32, 4)]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """value, references, offsets, logits; some points are outside the video."""
    batch, length, queries, heads, channels, samples = shape
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(batch, length, heads, channels, generator=generator, dtype=dtype)
    references = torch.rand(batch, queries, 2, generator=generator, dtype=dtype)
    offsets = torch.randn(batch, queries, heads, samples, generator=generator, dtype=dtype)
    logits = torch.randn(batch, queries, heads, samples, generator=generator, dtype=dtype)
    return [value, references, offsets, logits]


def by_grid_sample(value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """The same from image sampling on a picture of height 1, Deformable-DETR's formulation."""
    batch, length, heads, channels = value.shape
    queries, samples = offsets.shape[1], offsets.shape[3]
    center, width = references[:, :, None, None].unbind(-1)
    points, weights = center + offsets * width / 2, logits.softmax(-1)
    picture = value.permute(0, 2, 3, 1).reshape(batch * heads, channels, 1, length)
    x = (2 * points - 1).permute(0, 2, 1, 3).reshape(batch * heads, queries, samples)
    grid = torch.stack((x, torch.zeros_like(x)), dim=-1)
    sampled = functional.grid_sample(picture, grid, align_corners=False, padding_mode="zeros")
    weights = weights.permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, samples)
    out = (sampled * weights).sum(-1).view(batch, heads, channels, queries)
    return out.permute(0, 3, 1, 2)


def run(implementation: str, inputs: list[Tensor], lengths: Tensor | None = None) -> list[Tensor]:
    """The output and the gradient of every input under a fixed upstream gradient."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = deformable_attention(*leaves, lengths, implementation=implementation)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_as_exact_as_the_reference(
    inputs: list[Tensor], found: list[Tensor], lengths: Tensor | None = None
) -> None:
    """Error against fp64 at most twice the fp32 reference's own, plus 1e-5 of the scale."""
    exact = run("reference", [x.double() for x in inputs], lengths)
    plain = run("reference", inputs, lengths)
    for truth, reference, mine in zip(exact, plain, found, strict=True):
        if truth.numel() == 0:
            continue
        allowed = 2 * (reference - truth).abs().max() + 1e-5 * truth.abs().max().clamp(min=1)
        assert (mine - truth).abs().max() <= allowed


@pytest.mark.parametrize("shape", SHAPES)
def test_the_reference_equals_grid_sample(shape: tuple[int, ...]) -> None:
    inputs = make_inputs(shape, torch.float64)
    found = deformable_attention(*inputs, implementation="reference")
    torch.testing.assert_close(found, by_grid_sample(*inputs))


def test_the_gradients_of_the_reference_are_right() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((2, 5, 3, 2, 3, 2), torch.float64)]
    lengths = torch.tensor([5, 2])
    assert torch.autograd.gradcheck(
        lambda *x: deformable_attention(*x, lengths, implementation="reference"), inputs
    )


@needs_native
@pytest.mark.parametrize("shape", SHAPES)
def test_native_agrees_with_the_reference_forward_and_backward(shape: tuple[int, ...]) -> None:
    inputs = make_inputs(shape)
    assert_as_exact_as_the_reference(inputs, run("native", inputs))


@needs_native
def test_native_respects_lengths() -> None:
    inputs, lengths = make_inputs((4, 9, 3, 2, 8, 4)), torch.tensor([9, 4, 1, 0])
    assert_as_exact_as_the_reference(inputs, run("native", inputs, lengths), lengths)


@needs_native
@pytest.mark.parametrize("shape", [(0, 9, 5, 2, 8, 4), (2, 9, 0, 2, 8, 4)])
def test_native_serves_empty_batches(shape: tuple[int, ...]) -> None:
    inputs = make_inputs(shape)
    assert [x.shape for x in run("native", inputs)] == [x.shape for x in run("reference", inputs)]


@needs_native
@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_lengths_end_with_the_values(implementation: str) -> None:
    inputs = make_inputs((3, 9, 3, 2, 8, 4))
    expected = run(implementation, inputs, torch.tensor([9, 4, 0]))
    for a, b in zip(expected, run(implementation, inputs, torch.tensor([11, 4, -1])), strict=True):
        assert torch.equal(a, b)


@needs_native
@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_nan_in_the_padding_reaches_neither_output_nor_gradient(implementation: str) -> None:
    inputs, lengths = make_inputs((2, 9, 3, 2, 8, 4)), torch.tensor([5, 9])
    clean = run(implementation, inputs, lengths)
    inputs[0][0, 5:] = torch.nan
    for before, after in zip(clean, run(implementation, inputs, lengths), strict=True):
        assert torch.equal(before, after)


@needs_native
def test_native_takes_views_and_expanded_inputs() -> None:
    value, references, offsets, logits = make_inputs((2, 9, 3, 2, 8, 4))
    strided = torch.stack((value, value), dim=-1)[..., 0]
    expanded = logits[:, :, :, :1].expand_as(logits)
    found = run("native", [strided, references, offsets, expanded])
    whole = [value, references, offsets, expanded.contiguous()]
    assert_as_exact_as_the_reference(whole, found)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_native_takes_half_precision(dtype: torch.dtype) -> None:
    inputs = [x.to(dtype) for x in make_inputs((2, 9, 5, 2, 8, 4))]
    found = run("native", inputs)
    assert all(x.dtype == dtype for x in found)
    assert_as_exact_as_the_reference(inputs, found)


@needs_native
def test_points_far_outside_give_zero_and_one_that_is_not_a_number_shows() -> None:
    value, references, offsets, logits = make_inputs((1, 9, 4, 1, 8, 1))
    offsets[0, :, 0, 0] = torch.tensor([torch.inf, -torch.inf, 1e30, torch.nan])
    out, _, _, *gradients = run("native", [value, references, offsets, logits])
    assert (out[0, :3] == 0).all()
    assert out[0, 3].isnan().all()
    assert all((x[0, :3] == 0).all() for x in gradients)


@needs_native
def test_large_logits_do_not_overflow() -> None:
    value, references, offsets, logits = make_inputs((2, 9, 5, 2, 8, 4))
    inputs = [value, references, offsets, 1e4 * logits]
    assert_as_exact_as_the_reference(inputs, run("native", inputs))


@needs_native
def test_native_gives_the_same_bits_in_any_number_of_threads() -> None:
    inputs = make_inputs((4, 75, 10, 8, 32, 4))
    assert_same_bits_in_threads(lambda: run("native", inputs))


@needs_native
def test_the_registered_op_is_sound() -> None:
    inputs = [x.requires_grad_() for x in make_inputs((2, 9, 3, 2, 8, 4))]
    op = torch.ops.sdst.deformable_attention_forward.default
    torch.library.opcheck(op, (*inputs, torch.tensor([9, 4])))


@needs_native
@pytest.mark.slow
def test_it_compiles_into_one_graph() -> None:
    inputs = make_inputs((2, 9, 3, 2, 8, 4))
    compiled = torch.compile(deformable_attention, fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), deformable_attention(*inputs))


@needs_native
def test_native_says_why_it_does_not_fit() -> None:
    inputs = make_inputs((1, 4, 1, 1, 2, 1), torch.float64)
    assert "float64" in unsupported_reasons("deformable_attention", "native", *inputs, None)[0]
    with pytest.raises(ImplementationError, match="float64"):
        deformable_attention(*inputs, implementation="native")


@pytest.mark.parametrize(
    ("name", "argument"), [("references", 1), ("offsets", 2), ("logits", 3), ("lengths", 4)]
)
def test_shapes_that_do_not_belong_together_are_named(name: str, argument: int) -> None:
    inputs = [*make_inputs((2, 9, 3, 2, 8, 4)), torch.tensor([9, 4])]
    inputs[argument] = inputs[argument][:1]
    with pytest.raises(ValueError, match=f"^deformable_attention: {name} is .*, expected "):
        deformable_attention(*inputs)
