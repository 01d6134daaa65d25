"""Dense attention: lengths are respected, whatever library serves the call."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch

from sdst.kernels import (
    cross_attention,
    dense_attention,
    dispatch,
    library,
    unsupported_reasons,
)
from sdst.kernels.dense_attention import flash, windowed
from sdst.kernels.registry import OPS, always
from tests.kernels.threads import assert_same_bits_in_threads

SIZE = (3, 6, 2, 8)  # B, L, H, C


@pytest.fixture(params=["native", "sdpa"])
def implementation(request: pytest.FixtureRequest) -> str:
    """Run the test with each implementation for a CPU."""
    if request.param == "native" and library.missing_reason() is not None:
        pytest.skip(str(library.missing_reason()))
    return request.param


@pytest.fixture
def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(SIZE, generator=generator) for _ in range(3))


def test_it_is_softmax_attention_over_the_valid_clips(qkv, implementation: str) -> None:
    lengths = torch.tensor([6, 4, 1])
    found = dense_attention(*qkv, lengths, implementation=implementation)
    for i, length in enumerate(lengths.tolist()):
        q, k, v = (x[i, :length].transpose(0, 1) for x in qkv)
        expected = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
        torch.testing.assert_close(found[i, :length].transpose(0, 1), expected)
        assert (found[i, length:] == 0).all()


def test_nan_in_the_padding_reaches_neither_output_nor_gradient(qkv, implementation: str) -> None:
    q, k, v = (x.clone() for x in qkv)
    for x in (q, k, v):
        x[1, 4:] = torch.nan
        x.requires_grad_()
    out = dense_attention(q, k, v, torch.tensor([6, 4, 6]), implementation=implementation)
    out.sum().backward()
    assert out.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_an_empty_video_gives_zero(qkv, implementation: str) -> None:
    out = dense_attention(*qkv, torch.tensor([6, 0, 6]), implementation=implementation)
    assert (out[1] == 0).all()


def formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: torch.Tensor | None
) -> torch.Tensor:
    """Attention [B, M, H, C] of all queries to the valid keys, in fp64."""
    q, k, v = (x.double() for x in (q, k, v))
    logits = torch.einsum("bmhc,blhc->bhml", q, k) / q.shape[-1] ** 0.5
    if lengths is not None:
        seen = torch.arange(k.shape[1]) < lengths[:, None]
        logits = logits.masked_fill(~seen[:, None, None], -torch.inf)
    return torch.einsum("bhml,blhc->bmhc", logits.softmax(-1), v)


@pytest.mark.parametrize("channels", [1, 7, 16, 33])
@pytest.mark.parametrize("size", [(1, 1), (5, 20), (31, 16), (75, 77), (900, 40)])
@pytest.mark.parametrize("padded", [True, False])
def test_values_and_gradients_are_the_formulas(
    size: tuple[int, int], channels: int, padded: bool, implementation: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    (queries, keys), batch, heads = size, 2, 3
    lengths = torch.tensor([keys, max(keys - 9, 1)]) if padded else None

    def draw(length: int) -> torch.Tensor:
        """The middle one of three that lie side by side, as a fused projection leaves them."""
        fused = torch.randn(batch, length, 3, heads, channels, generator=generator)
        return fused[:, :, 1].requires_grad_()

    q, k, v = draw(queries), draw(keys), draw(keys)
    upstream = torch.randn(q.shape, generator=generator)
    found = cross_attention(q, k, v, lengths, implementation=implementation)
    expected = formula(q, k, v, lengths)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = zip(
        torch.autograd.grad(found, (q, k, v), upstream),
        torch.autograd.grad(expected, (q, k, v), upstream.double()),
        strict=True,
    )
    for mine, theirs in gradients:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_logits_far_apart_stay_finite(implementation: str) -> None:
    q, k, v = (torch.randn(1, 40, 2, 8) for _ in range(3))
    for scale in (-1e3, 1e3):
        found = cross_attention(scale * q, k, v, implementation=implementation)
        expected = formula(scale * q, k, v, None)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_nothing_to_attend_to_gives_zero(qkv) -> None:
    q, k, v = (x.clone().requires_grad_() for x in qkv)
    lengths = torch.tensor([6, 0, 2])
    if unsupported_reasons("dense_attention", "native", q, k, v, lengths, None, 0.0):
        pytest.skip("there is no C++ library")
    out = cross_attention(q, k, v, lengths)
    assert (out[1] == 0).all()
    out.sum().backward()
    assert all((x.grad[1] == 0).all() for x in (q, k, v))


def test_16_bit_inputs_are_computed_in_fp32(qkv) -> None:
    half = [x.bfloat16() for x in qkv]
    found = cross_attention(*half)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, cross_attention(*(x.float() for x in half)).bfloat16())


def test_the_number_of_threads_changes_nothing() -> None:
    q, k, v = (torch.randn(3, 50, 4, 32).requires_grad_() for _ in range(3))

    def run() -> list[torch.Tensor]:
        out = dense_attention(q, k, v, torch.tensor([50, 31, 2]))
        return [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]

    assert_same_bits_in_threads(run)


def test_it_keeps_pytorchs_rules_for_operators(qkv) -> None:
    q, k, v = (x.clone().requires_grad_() for x in qkv)
    arguments = (q, k, v, torch.tensor([6, 4, 1]), torch.tensor([6, 4, 1]))
    torch.library.opcheck(torch.ops.sdst.dense_attention_forward, arguments)


def test_the_cuda_libraries_say_why_they_do_not_serve_the_cpu(qkv) -> None:
    for name in OPS["dense_attention"].implementations:
        if name in ("flash", "xformers"):
            assert unsupported_reasons("dense_attention", name, *qkv, None, None, 0.0)


def by_mask(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, length: int, window: int, global_clips: int
) -> torch.Tensor:
    """The valid part [length, H, C] of one video [L, H, C], under the explicit mask."""
    clip = torch.arange(length)
    seen = (clip[:, None] - clip).abs() <= window
    seen[:, :global_clips] = True
    seen[:global_clips] = True
    q, k, v = (x[:length].transpose(0, 1) for x in (q, k, v))
    logits = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~seen, -torch.inf)
    return (logits.softmax(-1) @ v).transpose(0, 1)


@pytest.mark.parametrize("global_clips", [0, 3, 50])
@pytest.mark.parametrize("window", [1, 5, 40, 98])
@pytest.mark.parametrize("padded", [True, False])
def test_a_window_is_the_explicit_mask(window: int, global_clips: int, padded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (4, 100, 2, 5)
    inputs = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(3)]
    inputs = [x.requires_grad_() for x in inputs]
    lengths = torch.tensor([100, 64, 2, 1]) if padded else None
    found = dense_attention(*inputs, lengths, window=window, global_clips=global_clips)
    counts = lengths.tolist() if padded else [100] * 4
    videos = [
        by_mask(*(x[i] for x in inputs), count, window, global_clips)
        for i, count in enumerate(counts)
    ]
    for i, expected in enumerate(videos):
        torch.testing.assert_close(found[i, : counts[i]], expected)
        assert (found[i, counts[i] :] == 0).all()
    upstream = torch.randn(size, generator=generator, dtype=torch.float64)
    sums = sum((x * upstream[i, : counts[i]]).sum() for i, x in enumerate(videos))
    gradients = zip(
        torch.autograd.grad((found * upstream).sum(), inputs),
        torch.autograd.grad(sums, inputs),
        strict=True,
    )
    for mine, theirs in gradients:
        torch.testing.assert_close(mine, theirs)


def test_long_videos_are_served_in_stretches(monkeypatch) -> None:
    q, k, v = (torch.randn(2, 400, 2, 4) for _ in range(3))
    call = {"lengths": torch.tensor([400, 250]), "window": 40, "global_clips": 2}
    at_once = dense_attention(q, k, v, **call)
    monkeypatch.setattr(windowed, "_CLIPS_AT_ONCE", 80)
    torch.testing.assert_close(dense_attention(q, k, v, **call), at_once)


def test_nan_in_the_padding_stays_there_under_a_window() -> None:
    q, k, v = (torch.randn(2, 50, 2, 4) for _ in range(3))
    for x in (q, k, v):
        x[0, 40:], x[1] = torch.nan, torch.nan
        x.requires_grad_()
    out = dense_attention(q, k, v, torch.tensor([40, 0]), window=3, global_clips=2)
    out.sum().backward()
    assert out.isfinite().all()
    assert (out[1] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_a_window_that_covers_the_video_changes_nothing(qkv) -> None:
    lengths = torch.tensor([6, 4, 1])
    found = dense_attention(*qkv, lengths, window=5, global_clips=1)
    assert torch.equal(found, dense_attention(*qkv, lengths))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0, expected an integer from 1 to"),
        ({"window": 3, "global_clips": -1}, "global_clips is -1, expected an integer from 0 to"),
    ],
)
def test_a_window_that_makes_no_sense_is_named(qkv, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dense_attention(*qkv, **options)


def test_the_libraries_say_what_they_lack_for_a_window(qkv) -> None:
    call = (*qkv, *2 * [torch.tensor([6, 4, 1])], 0.0, 2, 1)
    assert "global" in unsupported_reasons("dense_attention", "flash", *call)[-1]
    assert "several lengths" in unsupported_reasons("dense_attention", "xformers", *call)[-2]


def test_flash_attn_is_preferred_in_a_window_and_taken_elsewhere_when_asked_for(
    qkv, monkeypatch
) -> None:
    everywhere = {"flash": always, "sdpa": always}
    op = replace(OPS["dense_attention"], implementations=everywhere)
    monkeypatch.setitem(OPS, "dense_attention", op)
    monkeypatch.setitem(everywhere, "native", lambda *_: ["no CPU here"])
    whole, in_window = ((*qkv, None, None, 0.0, window, 0) for window in (None, 2))
    assert dispatch.choose("dense_attention", "auto", *in_window) == "flash"
    assert dispatch.choose("dense_attention", "auto", *whole) == "sdpa"
    assert dispatch.choose("dense_attention", "flash", *whole) == "flash"


@pytest.mark.parametrize("attention", [dense_attention, cross_attention])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("q", (3, 6, 16)),
        ("k", (3, 6, 1, 8)),
        ("k", (1, 6, 2, 8)),
        ("k", (3, 6, 2, 4)),
        ("v", (3, 6, 1, 8)),
        ("v", (3, 5, 2, 8)),
        ("v", (3, 6, 2, 4)),
        ("lengths", (2,)),
    ],
)
def test_shapes_that_do_not_belong_together_are_named(
    qkv, attention, name: str, shape: tuple[int, ...], implementation: str
) -> None:
    lengths = torch.tensor([6, 4, 1])
    call = dict(zip(("q", "k", "v", "lengths"), (*qkv, lengths), strict=True))
    call[name] = torch.zeros(shape, dtype=call[name].dtype)
    message = rf"^{attention.__name__}: {name} is \[{', '.join(map(str, shape))}\], expected \["
    with pytest.raises(ValueError, match=message):
        attention(**call, implementation=implementation)


def test_only_another_sequence_may_have_another_length(qkv) -> None:
    q, k, v = qkv
    with pytest.raises(ValueError, match=r"k is \[3, 5, 2, 8\], expected \[3, 6, 2, 8\]"):
        dense_attention(q, k[:, 1:], v[:, 1:])
    assert cross_attention(q, k[:, 1:], v[:, 1:]).shape == q.shape


def varlen(q, k, v, starts, *rest, **options) -> torch.Tensor:
    """As flash-attn's function of this name; rows of no sequence stay unwritten."""
    out = torch.full_like(q, torch.nan)
    for first, end in pairwise(starts.tolist()):
        rows = slice(first, end)
        out[rows] = cross_attention(q[None, rows], k[None, rows], v[None, rows])[0]
    return out


@pytest.mark.parametrize("lengths", [[6, 4, 1], [0, 6, 2], [9, 9, 9]])
def test_what_flash_attn_is_given_is_one_sequence_without_padding(
    lengths: list[int], qkv, monkeypatch
) -> None:
    """The library itself runs on a GPU only."""
    monkeypatch.setitem(sys.modules, "flash_attn", Mock(flash_attn_varlen_func=varlen))
    lengths = torch.tensor(lengths)
    q, k, v = inputs = [x.clone().requires_grad_() for x in qkv]
    with torch.no_grad():
        for x in inputs:
            x[torch.arange(6) >= lengths[:, None]] = torch.nan
    found = flash.dense_attention(q, k, v, lengths, lengths, 0.0, None, 0)
    expected = dense_attention(q, k, v, lengths.clamp(max=6), implementation="sdpa")
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
    gradients = (torch.autograd.grad(out, inputs, upstream) for out in (found, expected))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", ["flash", "xformers"])
def test_every_library_gives_the_answer_of_sdpa(
    name: str, padded: bool, window: int | None, qkv
) -> None:
    inputs = [x.cuda().bfloat16().requires_grad_() for x in qkv]
    lengths = torch.tensor([6, 4, 1]).cuda() if padded else None
    call = (*inputs, lengths, lengths, 0.0, window, 0)
    if reasons := unsupported_reasons("dense_attention", name, *call):
        pytest.skip("; ".join(reasons))
    upstream = torch.randn(SIZE, generator=torch.Generator().manual_seed(1)).cuda().bfloat16()

    def run(implementation: str) -> list[torch.Tensor]:
        options = {"window": window, "implementation": implementation}
        out = dense_attention(*inputs, lengths, **options)
        return [out, *torch.autograd.grad(out, inputs, upstream)]

    expected = run("sdpa")
    run(name)  # loads what is loaded once
    torch.cuda.set_sync_debug_mode("error" if name == "flash" else "default")
    try:
        found = run(name)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-2, atol=2e-2)
