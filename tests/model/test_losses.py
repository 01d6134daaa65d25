"""Every term of the loss against a slow formulation of its definition."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from sdst.model.losses import Targets, saliency_loss
from sdst.model.moment_losses import focal_losses, match, moment_losses
from sdst.model.spans import iou_with_slopes, to_center_width, to_ends

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


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    (a_start, a_end), (b_start, b_end) = to_ends(a).unbind(-1), to_ends(b).unbind(-1)
    overlap = (torch.minimum(a_end, b_end) - torch.maximum(a_start, b_start)).clamp(min=0)
    return overlap / ((a_end - a_start) + (b_end - b_start) - overlap).clamp(min=1e-19)


def focal(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    p = logits.sigmoid()
    right = torch.where(labels, p, 1 - p)
    return -torch.where(labels, 0.25, 0.75) * (1 - right) ** 2 * right.log()


def cost_of(
    spans: torch.Tensor, logits: torch.Tensor, targets: Targets, overlap: torch.Tensor
) -> torch.Tensor:
    """[K, B, M, G], the definition."""
    yes = torch.ones_like(logits, dtype=torch.bool)
    of_class = 6 * (focal(logits, yes) - focal(logits, ~yes))[..., None]
    distance = (spans[:, :, :, None] - targets.spans[:, None]).abs().sum(-1)
    return of_class + 5 * distance - 2 * overlap


def recorded_moment_losses(
    spans: torch.Tensor, logits: torch.Tensor, actionness: torch.Tensor, targets: Targets
) -> dict[str, torch.Tensor]:
    """The definition, pair by pair, whose gradients PyTorch records."""
    overlap = iou(spans[:, :, :, None], targets.spans[:, None])
    with torch.no_grad():
        assigned = match(cost_of(spans, logits, targets, overlap), targets.counts)
    places = (assigned >= 0).nonzero().tolist()
    pairs = [(k, b, int(assigned[k, b, g]), g) for k, b, g in places]
    labels = torch.zeros_like(logits, dtype=torch.bool)
    for k, b, m, _ in pairs:
        labels[k, b, m] = True
    real = torch.arange(targets.spans.shape[1]) < targets.counts[:, None]
    best = overlap.detach().masked_fill(~real[:, None], 0.0).amax(-1)
    count = max(len(pairs), 1)
    distances = [(spans[k, b, m] - targets.spans[b, g]).abs().sum() for k, b, m, g in pairs]
    misses = [1 - overlap[k, b, m, g] for k, b, m, g in pairs]
    return {
        "classification": focal(logits, labels).sum() / count,
        "l1": sum(distances, torch.zeros(())) / count,
        "iou": sum(misses, torch.zeros(())) / count,
        "actionness": (actionness - best).abs().mean(),
    }


def losses_of(
    spans: torch.Tensor,
    logits: torch.Tensor,
    actionness: torch.Tensor,
    targets: Targets,
    **options: float,
) -> dict[str, torch.Tensor]:
    return moment_losses(spans, logits, actionness, targets.spans, targets.counts, **options)


def precise(tensors: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    return [x.double().requires_grad_() for x in tensors]


def test_iou_of_disjoint_touching_and_nested_spans() -> None:
    a = torch.tensor([[0.2, 0.2], [0.2, 0.2], [0.5, 1.0], [0.3, 0.0]])
    b = torch.tensor([[0.8, 0.2], [0.4, 0.2], [0.5, 0.5], [0.3, 0.0]])
    found, _ = iou_with_slopes(a, b)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.5, 0.0]), atol=1e-6, rtol=0)


def test_slopes_of_iou_are_recorded_gradients_where_ends_meet_as_well() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 200, 2, generator=generator, dtype=torch.float64).unbind()
    whole = torch.tensor([[0.5, 1.0]])
    a, b = (torch.cat((x, whole)) for x in (a, b))
    a.requires_grad_()
    _, slopes = iou_with_slopes(a.detach(), b)
    torch.testing.assert_close(slopes, *torch.autograd.grad(iou(a, b).sum(), a))


def test_focal_loss_is_its_formula() -> None:
    logits = torch.linspace(-5, 5, 11)
    for label in (0, 1):
        expected = torch.tensor([scalar_focal(x, label) for x in logits.tolist()])
        torch.testing.assert_close(focal_losses(logits)[0][label], expected)


def test_matching_is_the_cheapest_by_class_distance_and_overlap(targets, predictions) -> None:
    spans, logits, _ = predictions
    overlap = iou(spans[:, :, :, None], targets.spans[:, None])
    found = match(cost_of(spans, logits, targets, overlap), targets.counts)
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
    overlap = iou(spans[:, :, :, None], targets.spans[:, None])
    cost = cost_of(spans, torch.zeros(1, BATCH, 2), targets, overlap)
    found = match(cost, targets.counts)
    assert sorted(found[0, 0].tolist()) == [-1, 0, 1]


def test_moment_terms_and_gradients_are_those_of_matched_pairs(targets, predictions) -> None:
    inputs = precise(predictions)
    targets.spans = targets.spans.double()
    found, expected = losses_of(*inputs, targets), recorded_moment_losses(*inputs, targets)
    for name, term in found.items():
        torch.testing.assert_close(term, expected[name], check_dtype=False, msg=name)
        ours, theirs = (
            torch.autograd.grad(
                x, inputs, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for x in (term, expected[name])
        )
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize("counts", [[3, 1, 0], [0, 0, 0]])
@pytest.mark.parametrize("queries", [2, QUERIES])
def test_gradients_of_moments_are_differences(targets, predictions, counts, queries) -> None:
    truth, counts = targets.spans.double(), torch.tensor(counts)

    def terms(spans: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Actionness estimates what the spans overlap with and does not move them."""
        found = moment_losses(spans, *others, truth, counts)
        still = moment_losses(first, *others, truth, counts)
        return tuple((found | {"actionness": still["actionness"]}).values())

    inputs = precise(tuple(x[:, :, :queries] for x in predictions))
    first = inputs[0].detach().clone()
    assert torch.autograd.gradcheck(terms, inputs)


def test_actionness_is_compared_with_the_best_overlap_of_real_moments(targets, predictions) -> None:
    spans, logits, actionness = predictions
    expected = 0.0
    for (step, sample, q), value in np.ndenumerate(actionness.numpy()):
        truths = targets.spans[sample, : targets.counts[sample]]
        best = max((scalar_iou(spans[step, sample, q], t) for t in truths), default=0.0)
        expected += abs(value - best)
    found = losses_of(spans, logits, actionness, targets)["actionness"]
    assert found.item() == pytest.approx(expected / actionness.numel(), rel=1e-5)


def plain_saliency_loss(logits: torch.Tensor, targets: Targets) -> torch.Tensor:
    """The definition, clip by clip."""
    per_sample = []
    for step in range(len(logits)):
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
    return torch.stack(per_sample).mean()


def test_saliency_compares_a_clip_with_the_lower_rated_of_its_video(targets) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(STEPS, BATCH, 4, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    found = saliency_loss(logits, targets.saliency, targets.lengths)
    expected = plain_saliency_loss(logits, targets)
    torch.testing.assert_close(found, expected)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_the_gradient_of_saliency_is_a_difference(targets) -> None:
    logits = torch.randn(STEPS, BATCH, 4, dtype=torch.float64, requires_grad=True)
    given = targets.saliency, targets.lengths
    assert torch.autograd.gradcheck(lambda x: saliency_loss(x, *given), logits)


def test_saliency_at_the_highest_temperature_stays_finite_in_fp32(targets) -> None:
    """The worst ranking of all: what does not hold is as near as can be, what holds as far."""
    logits = torch.where(targets.saliency > 0, -100.0, 100.0).expand(STEPS, -1, -1)
    logits = logits.clone().requires_grad_()
    loss = saliency_loss(logits, targets.saliency, targets.lengths)
    torch.testing.assert_close(loss, plain_saliency_loss(logits, targets))
    [grad] = torch.autograd.grad(loss, logits)
    assert grad.isfinite().all()
    assert grad[0, 0, 2] < 0 < grad[0, 0, 0]


def test_without_clips_to_compare_saliency_is_0_and_learns_nothing(targets) -> None:
    logits = torch.randn(STEPS, BATCH, 4, requires_grad=True)
    loss = saliency_loss(logits, torch.zeros(BATCH, 4), targets.lengths)
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


def test_a_batch_without_moments_gives_finite_losses_and_gradients(targets, predictions) -> None:
    spans, logits, actionness = (p.requires_grad_() for p in predictions)
    nothing = dataclasses.replace(targets, counts=torch.zeros(BATCH, dtype=torch.int64))
    terms = losses_of(spans, logits, actionness, nothing)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in (spans, logits, actionness))
    assert terms["l1"] == 0


def test_padded_clips_and_moments_change_no_term(targets, predictions) -> None:
    spans, logits, actionness = predictions
    garbage = targets.spans.clone()
    garbage[1, 1:], garbage[2] = 0.77, 0.33
    changed = dataclasses.replace(targets, spans=garbage)
    before = losses_of(spans, logits, actionness, targets)
    after = losses_of(spans, logits, actionness, changed)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_queries_that_are_dropped_count_nowhere(targets, predictions, monkeypatch) -> None:
    """The terms are those of the other queries alone, but for actionness, a mean over all."""
    spans, logits, actionness = predictions
    kept = torch.tensor([True, False, True, True, False])
    draw = torch.where(kept, 0.9, 0.1).expand(BATCH, -1)
    monkeypatch.setattr(torch, "rand_like", lambda _: draw)
    found = losses_of(spans, logits, actionness, targets, dropout=0.5)
    left = [x[:, :, kept] for x in (spans, logits, actionness)]
    expected = losses_of(*left, targets)
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
    terms = moment_losses(spans, logits, actionness, truth, counts, partly=True)
    sum(terms.values()).backward()
    for tensor in (spans, logits, actionness):
        assert not tensor.grad[:, 1].any()
        assert tensor.grad[:, 0].any()
    kept = [0, 2]
    alone = (x[:, kept] for x in (spans, logits, actionness))
    expected = moment_losses(*alone, truth[kept], counts[kept])
    for name in ("classification", "l1", "iou"):
        torch.testing.assert_close(terms[name], expected[name])
