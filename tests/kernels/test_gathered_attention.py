"""Gathered attention against attention over an explicit, gathered copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import gathered_attention

STRIDES = (1, 2, 4)


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


def test_a_sample_with_nothing_valid_gives_zero_and_finite_gradients() -> None:
    x = make_inputs()
    x["valid"] = torch.zeros_like(x["valid"])
    query = x["query"].requires_grad_()
    out = gathered_attention(**x, strides=STRIDES, scale=0.4)
    out.sum().backward()
    assert (out == 0).all()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_store_is_accumulated_in_fp32(dtype: torch.dtype) -> None:
    x = make_inputs(torch.float32)
    stored = x["tokens"].to(dtype)
    found = gathered_attention(**{**x, "tokens": stored}, strides=STRIDES, scale=0.4)
    expected = gathered_attention(**{**x, "tokens": stored.float()}, strides=STRIDES, scale=0.4)
    torch.testing.assert_close(found, expected)


def test_nan_in_the_padding_changes_nothing() -> None:
    x = make_inputs()
    lengths = torch.tensor([4, 7])
    x["indices"][0] = torch.tensor([0, 3, 7, 14, 17, 22])
    clean = gathered_attention(**x, lengths=lengths, strides=STRIDES, scale=0.4)
    x["tokens"][0, 4:] = torch.nan
    assert torch.equal(clean, gathered_attention(**x, lengths=lengths, strides=STRIDES, scale=0.4))
