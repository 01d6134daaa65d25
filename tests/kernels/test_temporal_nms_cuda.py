"""The CUDA source of non-maximum suppression, executed on the CPU: a fiber per lane of the warp."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdst.kernels import temporal_nms
from sdst.kernels.temporal_nms import cuda
from sdst.kernels.temporal_nms.reference import METHODS
from tests.kernels.warp_shim import shimmed

THRESHOLD, SIGMA = 0.3, 0.5


@pytest.fixture(scope="module", params=["plain", "sanitized"])
def suppress(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    def call(
        spans: Tensor,
        scores: Tensor,
        counts: Tensor | None,
        method: str,
        min_score: float = -math.inf,
    ) -> tuple[Tensor, Tensor]:
        return cuda.temporal_nms(spans, scores, counts, method, THRESHOLD, SIGMA, min_score)

    folder = tmp_path_factory.mktemp("shim")
    with shimmed("temporal_nms", folder, request.param == "sanitized"):
        yield call


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 32, 45])
def test_it_agrees_with_the_reference(suppress, method: str, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    spans = torch.rand(3, size, 2, generator=generator).sort(-1).values
    scores = torch.rand(3, size, generator=generator)
    for counts in (None, torch.tensor([size, size // 2, 0])):
        order, kept = suppress(spans, scores, counts, method, 0.02)
        expected = temporal_nms(
            spans,
            scores,
            counts,
            method=method,
            threshold=THRESHOLD,
            sigma=SIGMA,
            min_score=0.02,
            implementation="reference",
        )
        assert torch.equal(order, expected[0])
        torch.testing.assert_close(kept, expected[1], rtol=1e-5, atol=1e-7)


def test_of_equal_scores_the_lower_index_is_taken_first(suppress) -> None:
    spans = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(1, 20, 1)
    order, _ = suppress(spans, torch.ones(1, 40), None, "hard")
    assert order[0].tolist() == [0, 1] + [-1] * 38


def test_a_span_without_a_score_is_dropped(suppress) -> None:
    scores = torch.tensor([[0.5, math.nan, -math.inf, 0.7]])
    order, kept = suppress(torch.zeros(1, 4, 2), scores, None, "gaussian")
    assert order[0].tolist() == [3, 0, -1, -1]
    assert kept[0].tolist() == pytest.approx([0.7, 0.5, 0.0, 0.0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_it_agrees_with_the_reference(method: str) -> None:
    generator = torch.Generator().manual_seed(0)
    spans = torch.rand(64, 200, 2, generator=generator).sort(-1).values
    scores, counts = torch.rand(64, 200, generator=generator), torch.arange(64) * 3
    expected = temporal_nms(spans, scores, counts, method=method, implementation="reference")
    given = (x.cuda() for x in (spans, scores, counts))
    order, kept = temporal_nms(*given, method=method, implementation="cuda")
    assert torch.equal(order.cpu(), expected[0])
    torch.testing.assert_close(kept.cpu(), expected[1], rtol=1e-5, atol=1e-7)
