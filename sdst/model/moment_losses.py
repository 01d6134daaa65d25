"""The losses of moments, whose gradients are written down instead of recorded.

All K steps are computed at once, every query against every moment: few and small tensors, in which
an operation is a launch that a GPU has next to nothing to do in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sdst.kernels import linear_assignment
from sdst.model.layers import length_mask
from sdst.model.spans import iou_with_slopes

NAMES = ("classification", "l1", "iou", "actionness")
_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2  # [D]
_COST_CLASS, _COST_L1, _COST_IOU = 6.0, 5.0, 2.0  # of matching [D: TadTR]
# Dearer than any real pair: rows that stand in for missing queries are taken last.
_COST_MISSING = 1e4


def moment_losses(
    spans: Tensor,
    logits: Tensor,
    actionness: Tensor,
    truth: Tensor,
    counts: Tensor,
    dropout: float = 0.0,
    partly: bool = False,
) -> dict[str, Tensor]:
    """Class, boundary and actionness terms after matching queries to moments.

        classification    focal loss of every query, labelled 1 where it is matched
        l1, iou           |span - moment| and 1 - IoU of the matched pairs
        actionness        |actionness - IoU with the best moment|, a mean over all queries

    The first three are divided by the number of matched pairs.

    Args:
        spans: [K, B, M, 2], (center, width) in units of the video.
        logits, actionness: [K, B, M].
        truth: [B, G, 2], moments as spans are.
        counts: [B], moments of each sample, at most G.
        dropout: chance of a query of a sample to be left out, at all steps.
        partly: leave samples without a moment out.

    Returns:
        A scalar by each of NAMES.
    """
    kept = torch.rand_like(logits[0]) >= dropout if dropout else None  # [B, M]
    if partly:
        labelled = (counts > 0)[:, None].expand(logits.shape[1:])
        kept = labelled if kept is None else kept & labelled
    terms = _Moments.apply(spans, logits, actionness, truth, counts, kept)
    return dict(zip(NAMES, terms.unbind(), strict=True))


class _Moments(torch.autograd.Function):
    """The four terms, [4].

    The derivative of a term that counts pairs is a sum over the moments that a query is matched
    with, of which there is one or none.
    """

    @staticmethod
    def forward(
        ctx,
        spans: Tensor,
        logits: Tensor,
        actionness: Tensor,
        truth: Tensor,
        counts: Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        difference = spans[:, :, :, None] - truth[:, None]  # [K, B, M, G, 2]
        distance = difference.abs().sum(-1)  # [K, B, M, G]
        overlap, slopes = iou_with_slopes(spans[:, :, :, None], truth[:, None])
        focal, focal_slopes = focal_losses(logits)  # [2, K, B, M], by label
        cost = _COST_CLASS * (focal[1] - focal[0])[..., None] + _COST_L1 * distance
        assigned = match(torch.sub(cost, overlap, alpha=_COST_IOU), counts, kept)
        pairs = assigned[:, :, None] == _count_up(spans.shape[2], spans)[:, None]  # [K, B, M, G]
        matched, moments = pairs.any(-1), pairs.sum().clamp(min=1)

        real = length_mask(counts, truth.shape[1])[:, None]  # [B, 1, G]
        error = actionness - overlap.masked_fill(~real, 0.0).amax(-1)
        classes, class_slopes = (x[1].where(matched, x[0]) for x in (focal, focal_slopes))
        if kept is not None:
            classes, class_slopes, error = (x * kept for x in (classes, class_slopes, error))
        of_pairs = torch.stack((distance, 1 - overlap)) * pairs
        span_slopes = torch.stack((difference.sign(), -slopes)) * pairs[..., None]
        ctx.save_for_backward(
            span_slopes.sum(4) / moments, class_slopes / moments, error.sign() / error.numel()
        )
        summed = torch.cat((classes.sum()[None], of_pairs.flatten(1).sum(1))) / moments
        return torch.cat((summed, error.abs().mean()[None]))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        [grad] = grads
        spans, classes, actions = ctx.saved_tensors
        by_term = (spans * grad[1:3, None, None, None, None]).sum(0)
        return by_term, classes * grad[0], actions * grad[3], None, None, None


def focal_losses(logits: Tensor) -> tuple[Tensor, Tensor]:
    """alpha_t (1 - p_t)^gamma (-log p_t), elementwise, of both labels; Lin et al., 2017.

    Args:
        logits: [...].

    Returns:
        The loss where the label is 0 and where it is 1, and its derivative, [2, ...] each.
    """
    z = torch.stack((logits, -logits))
    miss, entropy = z.sigmoid(), functional.softplus(z)  # 1 - p_t and -log p_t
    power = miss**_FOCAL_GAMMA
    loss = power * entropy
    slope = power * miss + _FOCAL_GAMMA * (loss - loss * miss)  # by z
    for x, sign in ((loss, 1), (slope, -1)):
        x[0].mul_(1 - _FOCAL_ALPHA)
        x[1].mul_(sign * _FOCAL_ALPHA)
    return loss, slope


def match(cost: Tensor, counts: Tensor, kept: Tensor | None = None) -> Tensor:
    """Hungarian matching of M queries to G moments, all steps in one call.

    Where a sample has more moments than queries, the cheapest M of them are matched.

    Args:
        cost: [K, B, M, G].
        counts: [B], moments of each sample.
        kept: [B, M], the queries that take part; None: all.

    Returns:
        [K, B, G] int64, the query of every moment, -1 where it has none.
    """
    steps, batch, queries, moments = cost.shape
    if kept is not None:
        cost = cost.where(kept[..., None], cost + _COST_MISSING)
    if moments > queries:
        cost = functional.pad(cost, (0, 0, 0, moments - queries), value=_COST_MISSING)
    assigned = linear_assignment(cost.flatten(0, 1), counts.repeat(steps))
    assigned = assigned.unflatten(0, (steps, batch))
    if moments > queries:
        assigned = assigned.where(assigned < queries, -1)
    if kept is None:
        return assigned
    taken = kept.expand(steps, -1, -1).gather(2, assigned.clamp(min=0))
    return assigned.where(taken, -1)


def _count_up(count: int, like: Tensor) -> Tensor:
    """[count], 0, 1, 2, ..., where `like` is."""
    return torch.arange(count, device=like.device)
