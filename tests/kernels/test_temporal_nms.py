"""Suppression of spans: the reference against a list and a loop, native against the reference."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sdst.kernels import ImplementationError, library, temporal_nms, unsupported_reasons
from tests.kernels.threads import assert_same_bits_in_threads

needs_native = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
METHODS = ["hard", "linear", "gaussian"]


@pytest.fixture(params=[pytest.param("native", marks=needs_native), "reference"])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


def make_inputs(batch: int, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Spans in seconds of a video of 100 s, scores, counts."""
    generator = torch.Generator().manual_seed(size)
    spans = (torch.rand(batch, size, 2, generator=generator, dtype=dtype) * 100).sort(-1).values
    scores = torch.rand(batch, size, generator=generator, dtype=dtype)
    return spans, scores, torch.randint(0, size + 1, (batch,), generator=generator)


def by_hand(
    spans: list[list[float]],
    scores: list[float],
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
) -> list[tuple[int, float]]:
    """(index, score) of what is taken from one video."""
    left, taken = dict(enumerate(scores)), []
    while left:
        best = max(left, key=lambda i: (left[i], -i))
        score = left.pop(best)
        if score <= min_score:
            break
        taken.append((best, score))
        for i in list(left):
            (a, b), (c, d) = spans[best], spans[i]
            union = (b - a) + (d - c) - max(0.0, min(b, d) - max(a, c))
            o = max(0.0, min(b, d) - max(a, c)) / union
            if method == "gaussian":
                left[i] *= math.exp(-(o**2) / sigma)
            elif o > threshold:
                left[i] *= 1 - o
                if method == "hard":
                    del left[i]
    return taken


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_equals_a_loop_over_lists(method: str) -> None:
    spans, scores, counts = make_inputs(6, 25, torch.float64)
    options = {"method": method, "threshold": 0.3, "sigma": 0.4, "min_score": 0.05}
    order, kept = temporal_nms(spans, scores, counts, implementation="reference", **options)
    for video, count in enumerate(counts.tolist()):
        expected = by_hand(spans[video, :count].tolist(), scores[video, :count].tolist(), **options)
        rest = 25 - len(expected)
        assert order[video].tolist() == [i for i, _ in expected] + [-1] * rest
        assert kept[video].tolist() == pytest.approx([s for _, s in expected] + [0.0] * rest)


@needs_native
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1, 7, 8, 33, 200])
def test_native_agrees_with_the_reference(method: str, size: int) -> None:
    spans, scores, counts = make_inputs(5, size)
    options = {"method": method, "threshold": 0.3, "min_score": 0.01}
    order, kept = temporal_nms(spans, scores, counts, implementation="native", **options)
    expected = temporal_nms(spans, scores, counts, implementation="reference", **options)
    assert torch.equal(order, expected[0])
    torch.testing.assert_close(kept, expected[1], rtol=1e-5, atol=1e-7)


def test_hard_nms_leaves_no_two_spans_that_overlap_more_than_allowed(implementation: str) -> None:
    spans, scores, _ = make_inputs(1, 60)
    order, kept = temporal_nms(spans, scores, threshold=0.4, implementation=implementation)
    start, end = spans[0, order[order >= 0]].unbind(-1)
    inside = end[:, None].minimum(end) - start[:, None].maximum(start)
    overlap = inside / ((end - start)[:, None] + (end - start) - inside)
    assert overlap.fill_diagonal_(0).max() <= 0.4
    assert torch.equal(kept[order >= 0], scores[0, order[order >= 0]])  # as they came in
    assert (kept[order < 0] == 0).all()


def test_of_equal_scores_the_lower_index_is_taken_first(implementation: str) -> None:
    spans = torch.tensor([[[0.0, 1.0]] * 9 + [[2.0, 3.0]] * 9])
    order, _ = temporal_nms(spans, torch.ones(1, 18), implementation=implementation)
    assert order[0].tolist() == [0, 9] + [-1] * 16


def test_a_duplicate_is_decayed_to_nothing_by_linear_and_kept_last(implementation: str) -> None:
    spans = torch.tensor([[[0.0, 4.0], [0.0, 4.0], [5.0, 6.0]]])
    scores = torch.tensor([[0.9, 0.8, 0.1]])
    order, kept = temporal_nms(spans, scores, method="linear", implementation=implementation)
    assert order[0].tolist() == [0, 2, 1]
    assert kept[0].tolist() == pytest.approx([0.9, 0.1, 0.0])
    order, _ = temporal_nms(
        spans, scores, method="linear", min_score=0.0, implementation=implementation
    )
    assert order[0].tolist() == [0, 2, -1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("odd", [(2.0, 2.0), (3.0, 1.0), (math.nan, 3.0), (0.0, math.nan)], ids=str)
def test_an_empty_reversed_or_nan_span_overlaps_nothing(
    implementation: str, method: str, odd: tuple[float, float]
) -> None:
    spans = torch.tensor([[[0.0, 4.0], odd, odd]])
    scores = torch.tensor([[0.5, 0.9, 0.4]])
    order, kept = temporal_nms(
        spans, scores, method=method, threshold=0.0, implementation=implementation
    )
    assert order[0].tolist() == [1, 0, 2]
    assert torch.equal(kept, scores[:, [1, 0, 2]])


def test_a_span_without_a_score_is_dropped(implementation: str) -> None:
    spans, scores, _ = make_inputs(1, 9)
    scores[0, 4], scores[0, 5] = math.nan, -math.inf
    order, kept = temporal_nms(spans, scores, threshold=1.0, implementation=implementation)
    assert sorted(order[0].tolist()) == [-1, -1, 0, 1, 2, 3, 6, 7, 8]
    assert kept.isfinite().all()


def test_logits_serve_as_scores_of_hard_nms(implementation: str) -> None:
    spans, scores, _ = make_inputs(3, 20)
    expected, _ = temporal_nms(spans, scores, implementation=implementation)
    order, _ = temporal_nms(spans, scores.logit(), implementation=implementation)
    assert torch.equal(order, expected)


def test_what_lies_beyond_the_counts_is_not_read(implementation: str) -> None:
    spans, scores, _ = make_inputs(2, 10)
    counts = torch.tensor([4, 0])
    expected = temporal_nms(spans[:1, :4], scores[:1, :4], implementation=implementation)
    spans[0, 4:], scores[0, 4:], scores[1] = math.nan, math.inf, math.inf
    order, kept = temporal_nms(spans, scores, counts, implementation=implementation)
    assert torch.equal(order[:1, :4], expected[0])
    assert torch.equal(kept[:1, :4], expected[1])
    assert (order[0, 4:] == -1).all()
    assert (order[1] == -1).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_an_empty_batch_gives_an_empty_answer(implementation: str, shape: tuple[int, int]) -> None:
    order, kept = temporal_nms(
        torch.zeros(*shape, 2), torch.zeros(shape), implementation=implementation
    )
    assert order.shape == kept.shape == shape


@needs_native
def test_native_takes_views_and_16_bit_inputs() -> None:
    spans, scores, counts = make_inputs(4, 20)
    spans = spans.bfloat16().mT.contiguous().mT
    scores = scores.bfloat16().T.contiguous().T
    found = temporal_nms(spans, scores, counts.int(), implementation="native")
    expected = temporal_nms(spans, scores, counts, implementation="reference")
    assert found[1].dtype == torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@needs_native
def test_native_gives_the_same_bits_in_any_number_of_threads() -> None:
    inputs = make_inputs(64, 50)
    assert_same_bits_in_threads(
        lambda: temporal_nms(*inputs, method="gaussian", implementation="native")
    )


def test_the_registered_op_is_sound(implementation: str) -> None:
    op = getattr(torch.ops.sdst, f"temporal_nms_{implementation}").default
    torch.library.opcheck(op, (*make_inputs(3, 9), "linear", 0.5, 0.5, 0.0))


@pytest.mark.slow
def test_it_compiles_into_one_graph(implementation: str) -> None:
    spans, scores, counts = make_inputs(3, 9)
    compiled = torch.compile(temporal_nms, fullgraph=True, backend="eager")
    for found, expected in zip(
        compiled(spans, scores, counts, implementation=implementation),
        temporal_nms(spans, scores, counts, implementation=implementation),
        strict=True,
    ):
        assert torch.equal(found, expected)


@needs_native
def test_native_says_why_it_does_not_fit() -> None:
    spans, scores, counts = make_inputs(1, 2, torch.float64)
    assert "float64" in unsupported_reasons("temporal_nms", "native", spans, scores, counts)[0]
    with pytest.raises(ImplementationError, match="float64"):
        temporal_nms(spans, scores, implementation="native")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": torch.zeros(2, 3)}, r"spans is \[2, 3\], expected \[2, 3, 2\]"),
        ({"counts": torch.zeros(3)}, r"counts is \[3\], expected \[2\]"),
        ({"method": "soft"}, "method is 'soft'"),
        ({"threshold": -0.1}, "threshold >= 0"),
        ({"sigma": 0.0}, "sigma > 0"),
    ],
)
def test_what_does_not_belong_together_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        temporal_nms(**{"spans": torch.zeros(2, 3, 2), "scores": torch.zeros(2, 3)} | change)
