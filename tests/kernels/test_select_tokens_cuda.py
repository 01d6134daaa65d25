"""The CUDA source of token selection, executed on the CPU: a fiber per thread of the block."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdst.kernels import pyramid
from sdst.kernels.select_tokens import cuda, reference
from tests.kernels.warp_shim import shimmed

STRIDES = (1, 2, 4, 8)


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def select(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    def call(
        scores: Tensor,
        k: int,
        lengths: Tensor | None = None,
        strides: tuple[int, ...] = STRIDES,
        segments: int = 4,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept, indices, valid = cuda.select(scores, k, lengths, strides, segments)
        return indices, kept, valid

    folder = tmp_path_factory.mktemp("shim")
    with shimmed("select_tokens", folder, request.param == "sanitized"):
        yield call


def check(select, scores: Tensor, k: int, lengths: Tensor | None = None, **options: object) -> None:
    indices, kept, valid = select(scores, k, lengths, **options)
    strides = options.get("strides", STRIDES)
    full = pyramid.valid_lengths(scores[..., None], lengths)
    expected = reference.select(scores, k, full, strides, options.get("segments", 4))
    assert torch.equal(indices, expected[0])
    assert torch.equal(valid, expected[1])
    rows, weights = pyramid.entries(scores[..., None], indices, full, strides)
    means = (scores.flatten()[rows] * weights).sum(-1).masked_fill(~valid, 0)
    torch.testing.assert_close(kept, means)


@pytest.mark.parametrize("seed", range(6))
def test_it_keeps_what_the_reference_keeps(select, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    clips, per_clip, k, segments = (int(integer(1, high, 1)) for high in (40, 8, 90, 6))
    # Sums of small integers are exact, and many are equal: the order of ties is checked, too.
    scores = integer(-4, 5, 3, clips, per_clip).float()
    check(select, scores, k, segments=segments)
    lengths = integer(0, clips + 1, 3)
    for sample, length in enumerate(lengths.tolist()):
        scores[sample, length:] = 0  # as the reference takes them; nothing depends on it
    check(select, scores, k, lengths, segments=segments)


def test_scores_that_differ_in_the_last_digit_only(select) -> None:
    close = torch.full((1, 300, 1), 1.0).view(torch.int32)
    close += torch.randperm(300, generator=torch.Generator().manual_seed(0))[None, :, None].int()
    check(select, close.view(torch.float32), 20, strides=(1,), segments=1)


def test_equal_scores_and_both_zeros(select) -> None:
    scores = torch.zeros(1, 300, 2)
    scores[0, ::3] = -0.0
    indices, _, _ = select(scores, 9, strides=(1,), segments=1)
    assert indices.tolist() == [list(range(9))]
    check(select, scores, 40)


def test_infinite_scores_and_no_numbers(select) -> None:
    scores = torch.randn(1, 30, 2, generator=torch.Generator().manual_seed(0))
    scores[0, ::7, 0] = torch.tensor([math.inf, -math.inf, math.nan, -math.nan, 1e38])
    indices, _, valid = select(scores, 50, strides=(1,), segments=3)
    full = torch.tensor([30])
    expected = reference.select(scores, 50, full, (1,), 3)
    assert torch.equal(indices, expected[0])
    assert torch.equal(valid, expected[1])


def test_what_lies_beyond_the_length_is_not_read(select) -> None:
    scores = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 0])
    clean = select(scores, 30, lengths)
    scores[0, 9:], scores[1] = math.nan, math.nan
    for before, after in zip(clean, select(scores, 30, lengths), strict=True):
        assert torch.equal(before, after)
    assert not clean[2][1].any()


def test_more_keys_than_threads_and_more_kept_than_there_are(select) -> None:
    scores = torch.randn(1, 700, 2, generator=torch.Generator().manual_seed(0))
    check(select, scores, 300)
    check(select, scores[:, :30].contiguous(), 300)


def test_no_samples_and_nothing_to_keep(select) -> None:
    assert select(torch.zeros(0, 4, 2), 3)[0].shape == (0, 3)
    assert select(torch.zeros(2, 4, 2), 0)[0].shape == (2, 0)


def test_it_says_why_it_does_not_fit() -> None:
    reasons = cuda.unsupported_reasons(torch.zeros(1, 1, 1), range(1, 10))
    assert reasons[:2] == [
        "the tensors are on cpu, expected a CUDA device",
        "9 levels, at most 8 are offered",
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("shape", [(32, 75, 1), (8, 75, 50), (1, 48_000, 1)])
def test_on_a_gpu_it_keeps_what_the_reference_keeps(shape: tuple[int, ...]) -> None:
    scores = torch.randint(-99, 100, shape, generator=torch.Generator().manual_seed(0)).float()
    lengths = torch.linspace(shape[1], 0, shape[0]).long()
    scores.masked_fill_((torch.arange(shape[1]) >= lengths[:, None])[..., None], 0)
    expected = reference.select(scores, 64, lengths, STRIDES, 4)
    _, indices, valid = cuda.select(scores.cuda(), 64, lengths.cuda(), STRIDES, 4)
    assert torch.equal(indices.cpu(), expected[0])
    assert torch.equal(valid.cpu(), expected[1])
