"""Gathered attention against attention over an explicit, gathered copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import (
    ImplementationError,
    dequantize,
    gathered_attention,
    library,
    quantize,
    unsupported_reasons,
)
from tests.kernels.threads import assert_same_bits_in_threads

STRIDES = (1, 2, 4)
needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)


def pyramid(tokens: Tensor, length: int) -> Tensor:
    """Every entry of one sample's pyramid, written out: [n, D]."""
    clips = tokens.shape[0]
    levels = []
    for stride in STRIDES:
        for start in range(0, clips, stride):
            window = tokens[start : max(start + 1, min(start + stride, length))]
            levels.append(window.mean(0))
    return torch.cat(levels)


def make_inputs(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    entries = (7 + 4 + 2) * 2
    return {
        "query": torch.randn(2, 3, 2, 5, generator=generator, dtype=dtype),
        "tokens": torch.randn(2, 7, 2, 5, generator=generator, dtype=dtype),
        "indices": torch.randint(entries - 12, (2, 6), generator=generator),
        "bias": torch.randn(2, 6, generator=generator, dtype=dtype),
        "valid": torch.tensor([[True] * 6, [True, False, True, True, False, True]]),
    }


def in_int8(x: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same inputs with the tokens in an int8 store."""
    values, scales = quantize(x["tokens"])
    return {**x, "tokens": values, "scales": scales}


def run(
    implementation: str, x: dict[str, Tensor], lengths: list[int] | None = None
) -> list[Tensor]:
    """The output and the gradients of query and bias under a fixed upstream gradient."""
    leaves = [x[name].detach().requires_grad_() for name in ("query", "bias")]
    x = {**x, "query": leaves[0], "bias": leaves[1]}
    valid_lengths = None if lengths is None else torch.tensor(lengths, device=leaves[0].device)
    out = gathered_attention(
        **x, lengths=valid_lengths, strides=STRIDES, scale=0.4, implementation=implementation
    )
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def assert_as_exact_as_the_reference(
    x: dict[str, Tensor], found: list[Tensor], lengths: list[int] | None = None
) -> None:
    """The error is at most twice the reference's own, plus 1e-5 of the scale."""
    wide = {k: v.double() if v.is_floating_point() else v for k, v in x.items()}
    exact, plain = run("reference", wide, lengths), run("reference", x, lengths)
    for truth, reference, mine in zip(exact, plain, found, strict=True):
        allowed = 2 * (reference - truth).abs().max() + 1e-5 * truth.abs().max().clamp(min=1)
        assert (mine - truth).abs().max() <= allowed
        assert (mine - truth).square().mean().sqrt() <= 0.005 * truth.square().mean().sqrt()


def test_it_equals_attention_over_the_gathered_copy() -> None:
    x = make_inputs()
    found = gathered_attention(**x, strides=STRIDES, scale=0.4)
    for i in range(2):
        keys = pyramid(x["tokens"][i], 7)[x["indices"][i]]
        mask = torch.where(x["valid"][i], x["bias"][i], -torch.inf)
        expected = functional.scaled_dot_product_attention(
            x["query"][i].transpose(0, 1), keys, keys, attn_mask=mask.expand(3, 6), scale=0.4
        )
        torch.testing.assert_close(found[i].transpose(0, 1), expected)


def test_its_gradients_are_right() -> None:
    x = make_inputs()
    assert torch.autograd.gradcheck(
        lambda query, bias: gathered_attention(
            **{**x, "query": query, "bias": bias}, strides=STRIDES, scale=0.4
        ),
        (x["query"].requires_grad_(), x["bias"].requires_grad_()),
    )


def test_a_sample_with_nothing_valid_gives_zero_and_finite_gradients(implementation: str) -> None:
    x = make_inputs(torch.float32)
    x["valid"] = torch.zeros_like(x["valid"])
    query = x["query"].requires_grad_()
    out = gathered_attention(**x, strides=STRIDES, scale=0.4)
    out.sum().backward()
    assert (out == 0).all()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_store_is_accumulated_in_fp32(
    implementation: str, dtype: torch.dtype
) -> None:
    x = make_inputs(torch.float32)
    stored = x["tokens"].to(dtype)
    found = gathered_attention(**{**x, "tokens": stored}, strides=STRIDES, scale=0.4)
    expected = gathered_attention(**{**x, "tokens": stored.float()}, strides=STRIDES, scale=0.4)
    torch.testing.assert_close(found, expected)


def test_nan_in_the_padding_changes_nothing(implementation: str) -> None:
    x = make_inputs(torch.float32)
    lengths = torch.tensor([4, 7])
    x["indices"][0] = torch.tensor([0, 3, 7, 14, 17, 22])
    clean = gathered_attention(**x, lengths=lengths, strides=STRIDES, scale=0.4)
    x["tokens"][0, 4:] = torch.nan
    assert torch.equal(clean, gathered_attention(**x, lengths=lengths, strides=STRIDES, scale=0.4))


def test_lengths_end_with_the_tokens(implementation: str) -> None:
    x = make_inputs(torch.float32)
    x["indices"][:, :2] = torch.tensor([20, 24])  # whose windows reach beyond the video
    found, expected = (
        gathered_attention(**x, lengths=lengths, strides=STRIDES, scale=0.4)
        for lengths in (torch.tensor([9, 8]), None)
    )
    assert torch.equal(found, expected)


def test_an_int8_store_is_the_store_that_it_stands_for(implementation: str) -> None:
    x = in_int8(make_inputs(torch.float32))
    values, scales = x.pop("tokens"), x.pop("scales")
    options = {"strides": STRIDES, "scale": 0.4}
    found = gathered_attention(**x, tokens=values, scales=scales, **options)
    expected = gathered_attention(**x, tokens=dequantize(values, scales), **options)
    torch.testing.assert_close(found, expected)


def test_int8_moves_a_channel_by_half_a_scale_at_most() -> None:
    tokens = torch.randn(4, 7, 2, 96) * torch.logspace(-3, 3, 7)[:, None, None]
    tokens[0, 0] = 0
    values, scales = quantize(tokens)
    error = (dequantize(values, scales) - tokens).abs().amax(-1)
    assert (error <= 0.5001 * scales).all()
    assert (error[0, 0] == 0).all()
    torch.testing.assert_close(scales, tokens.abs().amax(-1) / 127)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [None, [4, 7], [7, 0]])
def test_native_agrees_with_the_reference_forward_and_backward(
    dtype: torch.dtype, lengths: list[int] | None
) -> None:
    x = make_inputs(dtype)
    assert_as_exact_as_the_reference(x, run("native", x, lengths), lengths)


@needs_native
@pytest.mark.parametrize("kept", [1, 16, 17, 40])
@pytest.mark.parametrize("rows", [(1, 1), (5, 4), (13, 8)])
@pytest.mark.parametrize("width", [1, 8, 24, 300])
def test_native_serves_any_number_of_rows_channels_and_kept_tokens(
    kept: int, rows: tuple[int, int], width: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = {
        "query": torch.randn(2, *rows, width, generator=generator) / width**0.5,
        "tokens": torch.randn(2, 7, 2, width, generator=generator),
        "indices": torch.randint(26, (2, kept), generator=generator),
        "bias": torch.randn(2, kept, generator=generator),
        "valid": torch.rand(2, kept, generator=generator) < 0.8,
    }
    assert_as_exact_as_the_reference(x, run("native", x))


@needs_native
def test_native_reads_an_int8_store() -> None:
    x = in_int8(make_inputs(torch.float32))
    assert_as_exact_as_the_reference(x, run("native", x, [4, 7]), [4, 7])


@needs_native
@pytest.mark.parametrize("part", ["batch", "kept"])
def test_native_serves_what_is_empty(part: str) -> None:
    x = make_inputs(torch.float32)
    if part == "batch":
        x = {name: tensor[:0] for name, tensor in x.items()}
    else:
        x |= {name: x[name][:, :0] for name in ("indices", "bias", "valid")}
    for native, reference in zip(run("native", x), run("reference", x), strict=True):
        assert torch.equal(native, reference)


@needs_native
def test_native_takes_views_and_expanded_inputs() -> None:
    x = make_inputs(torch.float32)
    views = {
        **x,
        "query": torch.stack((x["query"], x["query"]), -1)[..., 0],
        "tokens": x["tokens"][:1].expand_as(x["tokens"]),
        "indices": x["indices"].t().contiguous().t(),
    }
    expected = run("native", {**x, "tokens": views["tokens"].contiguous()})
    for viewed, plain in zip(run("native", views), expected, strict=True):
        assert torch.equal(viewed, plain)


@needs_native
def test_native_gives_the_same_bits_in_any_number_of_threads() -> None:
    x = {**make_inputs(torch.float32), "query": torch.randn(2, 20, 8, 5)}
    assert_same_bits_in_threads(lambda: run("native", x))


@needs_native
def test_the_registered_op_is_sound() -> None:
    x = make_inputs(torch.float32)
    x["query"].requires_grad_()
    x["bias"].requires_grad_()
    op = torch.ops.sdst.gathered_attention_forward.default
    torch.library.opcheck(op, (*x.values(), torch.tensor([4, 7]), STRIDES, 0.4, None))


@needs_native
def test_native_says_why_it_does_not_fit() -> None:
    x = make_inputs()
    assert "float64" in unsupported_reasons("gathered_attention", "native", *x.values())[0]
    with pytest.raises(ImplementationError, match="float64"):
        gathered_attention(**x, strides=STRIDES, scale=0.4, implementation="native")


def test_shapes_that_do_not_belong_together_are_named() -> None:
    x = make_inputs()
    with pytest.raises(ValueError, match=r"bias is \[2, 5\], expected \[2, 6\]"):
        gathered_attention(**{**x, "bias": x["bias"][:, :5]}, strides=STRIDES, scale=0.4)
    with pytest.raises(ValueError, match=r"query is \[2, 3, 2\], expected \[B, M, H, D\]"):
        gathered_attention(**{**x, "query": x["query"][..., 0]}, strides=STRIDES, scale=0.4)
    with pytest.raises(ValueError, match="int8 tokens, and only these, have scales"):
        gathered_attention(**{**x, "tokens": x["tokens"].to(torch.int8)}, strides=STRIDES, scale=1)


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [("indices", torch.int32, torch.int64), ("valid", torch.uint8, torch.bool)],
)
def test_what_is_read_as_it_lies_must_be_of_its_type(
    name: str, dtype: torch.dtype, expected: torch.dtype
) -> None:
    x = make_inputs()
    with pytest.raises(ValueError, match=f"{name} is {dtype}, expected {expected}"):
        gathered_attention(**{**x, name: x[name].to(dtype)}, strides=STRIDES, scale=0.4)


@pytest.mark.parametrize("strides", [(), (1, 0)])
def test_strides_that_make_no_sense_are_named(strides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^gathered_attention: strides are .*, expected one"):
        gathered_attention(**make_inputs(), strides=strides, scale=0.4)
