"""Every term of the loss against a slow formulation of its definition."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sdst.model.losses import (
    Targets,
    focal_loss,
    match,
    moment_losses,
    saliency_loss,
)
from sdst.model.spans import iou, to_center_width, to_ends

STEPS, BATCH, QUERIES, MOMENTS = 2, 3, 5, 3


@pytest.fixture
def targets() -> Targets:
    generator = torch.Generator().manual_seed(1)
    ends = torch.rand(BATCH, MOMENTS, 2, generator=generator).sort(-1).values
    return Targets(
        spans=to_center_width(ends),
        counts=torch.tensor([3, 1, 0]),
        saliency=torch.tensor([[0.0, 2.0, 3.0, 0.0], [1.0, 1.0, 0.0, 9.0], [0.0, 0.0, 9.0, 9.0]]),
        lengths=torch.tensor([4, 3, 2]),
        positive_clip=torch.tensor([2, 0, -1]),
    )


@pytest.fixture
def predictions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ends = torch.rand(STEPS, BATCH, QUERIES, 2, generator=generator).sort(-1).values
    logits = torch.randn(STEPS, BATCH, QUERIES, generator=generator)
    return to_center_width(ends), logits, torch.rand(STEPS, BATCH, QUERIES, generator=generator)


def scalar_iou(a: torch.Tensor, b: torch.Tensor) -> float:
    (s0, e0), (s1, e1) = to_ends(a).tolist(), to_ends(b).tolist()
    overlap = max(0.0, min(e0, e1) - max(s0, s1))
    return overlap / ((e0 - s0) + (e1 - s1) - overlap)


def scalar_focal(logit: float, label: int) -> float:
    p = 1 / (1 + math.exp(-logit))
    if label:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def test_iou_of_disjoint_touching_and_nested_spans() -> None:
    a = torch.tensor([[0.2, 0.2], [0.2, 0.2], [0.5, 1.0], [0.3, 0.0]])
    b = torch.tensor([[0.8, 0.2], [0.4, 0.2], [0.5, 0.5], [0.3, 0.0]])
    torch.testing.assert_close(iou(a, b), torch.tensor([0.0, 0.0, 0.5, 0.0]), atol=1e-6, rtol=0)


def test_focal_loss_is_its_formula() -> None:
    logits = torch.linspace(-5, 5, 11)
    for label in (0, 1):
        expected = torch.tensor([scalar_focal(x, label) for x in logits.tolist()])
        torch.testing.assert_close(focal_loss(logits, float(label)), expected)


def test_matching_is_the_cheapest_by_class_distance_and_overlap(targets, predictions) -> None:
    spans, logits, _ = predictions
    overlap = iou(spans[:, :, :, None], targets.spans[None, :, None])
    found = match(spans, logits, overlap, targets)
    for step in range(STEPS):
        for sample in range(BATCH):
            count = int(targets.counts[sample])
            cost = np.zeros((QUERIES, count))
            for q in range(QUERIES):
                logit = logits[step, sample, q].item()
                for g in range(count):
                    span, truth = spans[step, sample, q], targets.spans[sample, g]
                    cost[q, g] = (
                        6 * (scalar_focal(logit, 1) - scalar_focal(logit, 0))
                        + 5 * (span - truth).abs().sum().item()
                        - 2 * scalar_iou(span, truth)
                    )
            rows, columns = linear_sum_assignment(cost)
            expected = dict(zip(columns.tolist(), rows.tolist(), strict=True))
            assert found[step, sample, :count].tolist() == [expected[g] for g in range(count)]
            assert (found[step, sample, count:] == -1).all()


def test_with_more_moments_than_queries_every_query_is_matched_once(targets) -> None:
    spans = torch.tensor([[0.2, 0.1], [0.7, 0.2]]).expand(1, BATCH, 2, 2)
    overlap = iou(spans[:, :, :, None], targets.spans[None, :, None])
    found = match(spans, torch.zeros(1, BATCH, 2), overlap, targets)
    assert sorted(found[0, 0].tolist()) == [-1, 0, 1]


def test_moment_terms_count_matched_pairs_only(targets, predictions) -> None:
    spans, logits, actionness = predictions
    terms = moment_losses(spans, logits, actionness, targets)
    overlap = iou(spans[:, :, :, None], targets.spans[None, :, None])
    assigned = match(spans, logits, overlap, targets)
    l1, loss, labels = 0.0, 0.0, torch.zeros(STEPS, BATCH, QUERIES)
    for step, sample, g in (assigned >= 0).nonzero().tolist():
        q = assigned[step, sample, g]
        l1 += (spans[step, sample, q] - targets.spans[sample, g]).abs().sum()
        loss += 1 - scalar_iou(spans[step, sample, q], targets.spans[sample, g])
        labels[step, sample, q] = 1
    pairs = STEPS * 4
    torch.testing.assert_close(terms["l1"], l1 / pairs)
    torch.testing.assert_close(terms["iou"], torch.tensor(loss / pairs))
    torch.testing.assert_close(terms["classification"], focal_loss(logits, labels).sum() / pairs)


def test_actionness_is_compared_with_the_best_overlap_of_real_moments(targets, predictions) -> None:
    spans, logits, actionness = predictions
    expected = 0.0
    for (step, sample, q), value in np.ndenumerate(actionness.numpy()):
        truths = targets.spans[sample, : targets.counts[sample]]
        best = max((scalar_iou(spans[step, sample, q], t) for t in truths), default=0.0)
        expected += abs(value - best)
    found = moment_losses(spans, logits, actionness, targets)["actionness"]
    assert found.item() == pytest.approx(expected / actionness.numel(), rel=1e-5)


def test_saliency_compares_a_clip_with_the_lower_rated_of_its_video(targets) -> None:
    logits = torch.randn(STEPS, BATCH, 4, generator=torch.Generator().manual_seed(3))
    per_sample = []
    for step in range(STEPS):
        for sample in range(BATCH):
            length = int(targets.lengths[sample])
            rating, x = targets.saliency[sample, :length], logits[step, sample, :length]
            terms = []
            for i in range(length):
                lower = x[rating < rating[i]]
                if rating[i] > 0 and len(lower):
                    candidates = torch.cat((x[i : i + 1], lower))
                    terms.append(-candidates.log_softmax(0)[0])
            if terms:
                per_sample.append(torch.stack(terms).mean())
    torch.testing.assert_close(saliency_loss(logits, targets), torch.stack(per_sample).mean())


def test_a_batch_without_moments_gives_finite_losses_and_gradients(targets, predictions) -> None:
    spans, logits, actionness = (p.requires_grad_() for p in predictions)
    nothing = dataclasses.replace(targets, counts=torch.zeros(BATCH, dtype=torch.int64))
    terms = moment_losses(spans, logits, actionness, nothing)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in (spans, logits, actionness))
    assert terms["l1"] == 0


def test_padded_clips_and_moments_change_no_term(targets, predictions) -> None:
    spans, logits, actionness = predictions
    garbage = targets.spans.clone()
    garbage[1, 1:], garbage[2] = 0.77, 0.33
    changed = dataclasses.replace(targets, spans=garbage)
    before = moment_losses(spans, logits, actionness, targets)
    after = moment_losses(spans, logits, actionness, changed)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_queries_that_are_dropped_count_nowhere(targets, predictions, monkeypatch) -> None:
    """The terms are those of the other queries alone, but for actionness, a mean over all."""
    spans, logits, actionness = predictions
    kept = torch.tensor([True, False, True, True, False])
    draw = torch.where(kept, 0.9, 0.1).expand(BATCH, -1)
    monkeypatch.setattr(torch, "rand_like", lambda _: draw)
    found = moment_losses(spans, logits, actionness, targets, dropout=0.5)
    left = [x[:, :, kept] for x in (spans, logits, actionness)]
    expected = moment_losses(*left, targets)
    expected["actionness"] = expected["actionness"] * kept.sum() / QUERIES
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term, msg=name)


def test_partly_labelled_samples_teach_no_moments() -> None:
    """The others learn as if they were alone."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, requires_grad=True)

    spans, logits, actionness = draw(2, 3, 4, 2), draw(2, 3, 4), draw(2, 3, 4)
    truth = torch.rand(3, 2, 2, generator=generator)
    counts = torch.tensor([2, 0, 1])
    rest = torch.zeros(3, 5), torch.full((3,), 5), torch.full((3,), -1)
    terms = moment_losses(spans, logits, actionness, Targets(truth, counts, *rest), partly=True)
    sum(terms.values()).backward()
    for tensor in (spans, logits, actionness):
        assert not tensor.grad[:, 1].any()
        assert tensor.grad[:, 0].any()
    kept = [0, 2]
    alone = Targets(truth[kept], counts[kept], *(x[kept] for x in rest))
    expected = moment_losses(spans[:, kept], logits[:, kept], actionness[:, kept], alone)
    for name in ("classification", "l1", "iou"):
        torch.testing.assert_close(terms[name], expected[name])
