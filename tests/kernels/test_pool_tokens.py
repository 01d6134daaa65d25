"""Token pooling against its definition, implementation against implementation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdst.kernels import dequantize, pool_tokens, quantize

pytestmark = pytest.mark.usefixtures("implementation")
native_only = pytest.mark.parametrize("implementation", ["native"], indirect=True)


def make_inputs(
    clips: int = 7, per_clip: int = 5, width: int = 19, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, clips, per_clip, width, generator=generator).to(dtype)
    u = 0.5 * torch.randn(3, width, generator=generator)
    return tokens, u, torch.tensor([clips, clips // 2, 0])


@pytest.mark.parametrize("kept", [1, 3, 5, 9])
def test_it_is_attention_over_the_best(kept: int) -> None:
    tokens, u, lengths = make_inputs()
    out = pool_tokens(tokens, u, kept, lengths)
    for i, length in enumerate(lengths.tolist()):
        for clip in range(tokens.shape[1]):
            best = sorted(tokens[i, clip], key=lambda x, u=u[i]: float(x @ u), reverse=True)[:kept]
            weights = torch.stack([x @ u[i] for x in best]).softmax(0)
            expected = weights @ torch.stack(best) if clip < length else torch.zeros(19)
            torch.testing.assert_close(out[i, clip], expected)


@native_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 8, 33, 96])
def test_native_agrees_with_the_reference(width: int, dtype: torch.dtype) -> None:
    tokens, u, lengths = make_inputs(clips=9, per_clip=6, width=width, dtype=dtype)
    u.requires_grad_()
    upstream = torch.randn(3, 9, width)
    found = []
    for name in ("native", "reference"):
        out = pool_tokens(tokens, u, 4, lengths, implementation=name)
        found.append((out, *torch.autograd.grad(out, u, upstream)))
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-5)


def test_the_smallest_and_largest_halves_are_read_right() -> None:
    halves = [0.0, -0.0, 6e-8, -6e-8, 3e-5, 6.1e-5, 1.0, -65504.0, 65504.0]
    tokens = torch.tensor(halves, dtype=torch.float16).view(1, 1, 1, -1)
    out = pool_tokens(tokens, torch.zeros(1, len(halves)), 1)
    assert torch.equal(out.flatten(), tokens.float().flatten())
    infinite = torch.full_like(tokens, torch.inf)
    assert (
        pool_tokens(infinite, torch.ones(1, len(halves)), 1, implementation="reference")
        .isnan()
        .all()
    )
    assert not pool_tokens(infinite, torch.ones(1, len(halves)), 1).isfinite().any()


def test_nan_in_the_padding_changes_nothing() -> None:
    tokens, u, lengths = make_inputs()
    u.requires_grad_()
    clean = pool_tokens(tokens, u, 3, lengths)
    (gradient,) = torch.autograd.grad(clean.square().sum(), u)
    tokens[1, lengths[1] :], tokens[2] = torch.nan, torch.nan
    dirty = pool_tokens(tokens, u, 3, lengths)
    assert torch.equal(clean, dirty)
    assert torch.equal(gradient, *torch.autograd.grad(dirty.square().sum(), u))


def test_strided_tokens_and_no_samples() -> None:
    tokens, u, lengths = make_inputs()
    strided = tokens.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(
        pool_tokens(strided, u, 2, lengths), pool_tokens(tokens, u, 2, lengths)
    )
    assert pool_tokens(tokens[:0], u[:0], 2).shape == (0, 7, 19)


def test_samples_that_share_their_tokens_are_pooled_each_by_its_own_direction() -> None:
    tokens, u, lengths = make_inputs()
    shared = tokens[:1].expand_as(tokens)
    found, expected = (pool_tokens(x, u, 2, lengths) for x in (shared, shared.contiguous()))
    assert torch.equal(found, expected)


def test_an_int8_store_is_the_store_that_it_stands_for() -> None:
    tokens, u, lengths = make_inputs()
    u.requires_grad_()
    values, scales = quantize(tokens)
    found = pool_tokens(values, u, 3, lengths, scales=scales)
    expected = pool_tokens(dequantize(values, scales), u, 3, lengths)
    torch.testing.assert_close(found, expected)
    upstream = 2 * expected.detach()  # of both: their own would differ by rounding
    gradients = [torch.autograd.grad(x, u, upstream)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_gradcheck_in_double() -> None:
    tokens, u, lengths = make_inputs(clips=3, per_clip=4, width=5)
    tokens = tokens.double()

    def pool(u: Tensor) -> Tensor:
        return pool_tokens(tokens, u, 2, lengths, implementation="reference")

    assert torch.autograd.gradcheck(pool, u.double().requires_grad_())


@native_only
def test_the_op_is_well_registered() -> None:
    tokens, u, lengths = make_inputs()
    arguments = (tokens, u.requires_grad_(), 3, lengths, None)
    torch.library.opcheck(torch.ops.sdst.pool_tokens_forward.default, arguments)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    tokens, u, lengths = make_inputs()
    with pytest.raises(ValueError, match=r"tokens is \[3, 7, 5\], expected \[B, L, P, D\]"):
        pool_tokens(tokens[..., 0], u, 3)
    for other in (u[:, :-1], u[:1]):
        with pytest.raises(ValueError, match=r"u is .*, expected \[3, 19\]"):
            pool_tokens(tokens, other, 3)
    with pytest.raises(ValueError, match=r"lengths is \[2\], expected \[3\]"):
        pool_tokens(tokens, u, 3, lengths[:2])
    with pytest.raises(ValueError, match="kept is 0"):
        pool_tokens(tokens, u, 0)
