"""Dense attention: lengths are respected, whatever library serves the call."""

from __future__ import annotations

import pytest
import torch

from sdst.kernels import dense_attention, unsupported_reasons
from sdst.kernels.dispatch import implementations

SIZE = (3, 6, 2, 8)  # B, L, H, C


@pytest.fixture
def qkv() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(SIZE, generator=generator) for _ in range(3))


def test_it_is_softmax_attention_over_the_valid_clips(qkv) -> None:
    lengths = torch.tensor([6, 4, 1])
    found = dense_attention(*qkv, lengths)
    for i, length in enumerate(lengths.tolist()):
        q, k, v = (x[i, :length].transpose(0, 1) for x in qkv)
        expected = ((q @ k.mT) / 8**0.5).softmax(-1) @ v
        torch.testing.assert_close(found[i, :length].transpose(0, 1), expected)
        assert (found[i, length:] == 0).all()


def test_nan_in_the_padding_reaches_neither_output_nor_gradient(qkv) -> None:
    q, k, v = (x.clone() for x in qkv)
    for x in (q, k, v):
        x[1, 4:] = torch.nan
        x.requires_grad_()
    out = dense_attention(q, k, v, torch.tensor([6, 4, 6]))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))


def test_an_empty_video_gives_zero(qkv) -> None:
    assert (dense_attention(*qkv, torch.tensor([6, 0, 6]))[1] == 0).all()


def test_the_cuda_libraries_say_why_they_do_not_serve_the_cpu(qkv) -> None:
    for name in implementations("dense_attention"):
        if name != "sdpa":
            assert unsupported_reasons("dense_attention", name, *qkv, None, 0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["flash", "xformers"])
def test_every_library_gives_the_answer_of_sdpa(name: str, qkv) -> None:
    q, k, v = (x.cuda().bfloat16() for x in qkv)
    lengths = torch.tensor([6, 4, 1]).cuda()
    if reasons := unsupported_reasons("dense_attention", name, q, k, v, lengths, 0.0):
        pytest.skip("; ".join(reasons))
    found = dense_attention(q, k, v, lengths, implementation=name)
    expected = dense_attention(q, k, v, lengths, implementation="sdpa")
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
