"""Losses of every refinement step [P: losses on all steps; weights D: TadTR, R2-Tuning].

All terms are computed for the K steps at once and averaged over them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import linear_assignment
from sdst.model.config import LossConfig
from sdst.model.contrast import contrastive_losses
from sdst.model.layers import length_mask, take_rows
from sdst.model.spans import distance_outside, iou
from sdst.model.tuner import Outputs

_FOCAL_ALPHA, _FOCAL_GAMMA = 0.25, 2.0  # [D]
_COST_CLASS, _COST_L1, _COST_IOU = 6.0, 5.0, 2.0  # of matching [D: TadTR]
# Dearer than any real pair: rows that stand in for missing queries are taken last.
_COST_MISSING = 1e4
# exp(_NEVER) is 0 and its gradient too, where -inf would give NaN.
_NEVER = -1e4


@dataclass
class Targets:
    """The truth of a batch.

    Attributes:
        spans: [B, G, 2], moments as (center, width) in units of the video.
        counts: [B], moments per sample, at most G.
        saliency: [B, L], rating per clip, 0 where the sentence does not hold.
        lengths: [B], valid clips.
        positive_clip: [B], one clip with positive saliency per sample, -1 where there is none.
    """

    spans: Tensor
    counts: Tensor
    saliency: Tensor
    lengths: Tensor
    positive_clip: Tensor


def grounding_loss(
    outputs: Outputs,
    targets: Targets,
    weights: LossConfig,
    gather: Callable[[Tensor, int], Tensor] = lambda x, dim: x,
    partly: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum, and every term before weighting.

    Args:
        gather: joins a tensor over processes along its batch dimension, with gradient, so that
            several processes train on the loss of their joint batch; by default there is one.
        partly: samples without a moment are unlabelled; the losses of moments leave them out.
    """
    at = targets.positive_clip.clamp(min=0)
    predictions = (
        outputs.spans,
        outputs.class_logits,
        outputs.actionness,
        outputs.saliency,
        outputs.sentence,
        _pick(outputs.dense, at),
        _pick(outputs.visual, at),
    )
    predictions = (gather(_widen(prediction), 1) for prediction in predictions)
    spans, logits, actionness, saliency, sentence, clip, visual = predictions
    targets = Targets(*(gather(getattr(targets, f.name), 0) for f in fields(targets)))
    anchored, scale = targets.positive_clip >= 0, outputs.scale
    terms = moment_losses(spans, logits, actionness, targets, weights.query_dropout, partly)
    terms["saliency"] = saliency_loss(scale * saliency, targets)
    terms |= contrastive_losses(sentence, clip, visual, scale, anchored)
    if weights.outside and outputs.offsets is not None and outputs.references is not None:
        terms["outside"] = distance_outside(outputs.offsets, outputs.references).mean()
    weighted = (getattr(weights, name) * term for name, term in terms.items())
    return reduce(operator.add, weighted), terms


def moment_losses(
    spans: Tensor,
    logits: Tensor,
    actionness: Tensor,
    targets: Targets,
    dropout: float = 0.0,
    partly: bool = False,
) -> dict[str, Tensor]:
    """Class, boundary and actionness terms after matching queries to moments.

    Args:
        spans: [K, B, M, 2].
        logits, actionness: [K, B, M].
        dropout: chance of a query of a sample to be left out, at all steps.
        partly: leave samples without a moment out.
    """
    steps, batch, queries = logits.shape
    truth = targets.spans.expand(steps, -1, -1, -1)  # [K, B, G, 2]
    real = length_mask(targets.counts, truth.shape[2])  # [B, G]
    overlap = iou(spans[:, :, :, None], truth[:, :, None])  # [K, B, M, G]
    kept = torch.rand_like(logits[0]) >= dropout if dropout else None  # [B, M]
    if partly:
        labelled = (targets.counts > 0)[:, None].expand(batch, queries)
        kept = labelled if kept is None else kept & labelled
    with torch.no_grad():
        assigned = match(spans, logits, overlap, targets, kept)  # [K, B, G]
    matched = assigned >= 0
    labels = logits.new_zeros(steps, batch, queries + 1)  # the last column takes what is unmatched
    labels = labels.scatter(2, assigned.where(matched, queries), 1.0)[..., :queries]
    query = assigned.clamp(min=0)
    distance = (spans.gather(2, query[..., None].expand(-1, -1, -1, 2)) - truth).abs().sum(-1)
    matched_overlap = overlap.gather(2, query[:, :, None]).squeeze(2)
    best = overlap.detach().masked_fill(~real[:, None], 0.0).amax(-1)  # [K, B, M]
    moments = matched.sum().clamp(min=1)
    classes, actions = focal_loss(logits, labels), (actionness - best).abs()
    if kept is not None:
        classes, actions = classes * kept, actions * kept
    return {
        "classification": classes.sum() / moments,
        "l1": (distance * matched).sum() / moments,
        "iou": ((1 - matched_overlap) * matched).sum() / moments,
        "actionness": actions.mean(),
    }


def match(
    spans: Tensor,
    logits: Tensor,
    overlap: Tensor,
    targets: Targets,
    kept: Tensor | None = None,
) -> Tensor:
    """Hungarian matching of M queries to G moments, all steps in one call.

    Where a sample has more moments than queries, the cheapest M of them are matched.

    Args:
        spans: [K, B, M, 2].
        logits: [K, B, M].
        overlap: [K, B, M, G], IoU of every pair.
        kept: [B, M], the queries that take part; None: all.

    Returns:
        [K, B, G] int64, the query of every moment, -1 where it has none.
    """
    steps, batch, queries, moments = overlap.shape
    positive, negative = focal_loss(logits, 1.0), focal_loss(logits, 0.0)
    distance = torch.cdist(spans, targets.spans.expand(steps, -1, -1, -1), p=1)
    cost = _COST_CLASS * (positive - negative)[..., None] + _COST_L1 * distance
    cost = (cost - _COST_IOU * overlap).flatten(0, 1)
    if kept is not None:
        cost = cost + _COST_MISSING * ~kept.repeat(steps, 1)[..., None]
    missing = max(moments - queries, 0)
    cost = functional.pad(cost, (0, 0, 0, missing), value=_COST_MISSING)
    assigned = linear_assignment(cost, targets.counts.repeat(steps))
    assigned = assigned.where(assigned < queries, -1).unflatten(0, (steps, batch))
    if kept is None:
        return assigned
    taken = kept.expand(steps, -1, -1).gather(2, assigned.clamp(min=0))
    return assigned.where(taken, -1)


def focal_loss(logits: Tensor, labels: Tensor | float) -> Tensor:
    """alpha_t (1 - p_t)^gamma (-log p_t), elementwise; Lin et al., 2017."""
    if not isinstance(labels, Tensor):
        labels = torch.full_like(logits, labels)  # made there: a number would be copied there
    p = logits.sigmoid()
    miss = (p - labels).abs()  # 1 - p_t, as labels are 0 or 1
    alpha = _FOCAL_ALPHA * labels + (1 - _FOCAL_ALPHA) * (1 - labels)
    entropy = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return alpha * miss**_FOCAL_GAMMA * entropy


def saliency_loss(logits: Tensor, targets: Targets) -> Tensor:
    """InfoNCE of every positive clip against the clips of its video rated lower.

    The method draws one positive clip; all are taken here, which is its expectation. Sorted by
    rating, the negatives of a clip are a prefix, so one running log-sum-exp serves them all.

    Args:
        logits: [K, B, L], cosines over temperature.
    """
    padding = ~length_mask(targets.lengths, logits.shape[-1])
    rating, order = targets.saliency.masked_fill(padding, torch.inf).sort(dim=-1, stable=True)
    logits = logits.gather(2, order.expand_as(logits))
    lower = torch.searchsorted(rating, rating, right=False)  # [B, L] clips rated lower
    running = logits.masked_fill(rating.isinf(), _NEVER).logcumsumexp(-1)
    negatives = _take_in_order(running, (lower - 1).clamp(min=0))
    counted = (rating > 0) & rating.isfinite() & (lower > 0)
    per_clip = functional.softplus(negatives - logits) * counted
    per_sample = per_clip.sum(-1) / counted.sum(-1).clamp(min=1)
    return _mean(per_sample, counted.any(-1))


def _take_in_order(values: Tensor, index: Tensor) -> Tensor:
    """values [K, B, L] at index [B, n], which never falls along n -> [K, B, n]."""
    _, batch, size = values.shape
    first = size * torch.arange(batch, device=index.device)[:, None]
    rows = take_rows(values.flatten(1).mT, (first + index).flatten())
    return rows.mT.unflatten(1, (batch, -1))


def _widen(x: Tensor) -> Tensor:
    """In fp32 at least: a temperature of 100 is too much for what autocast leaves in 16 bits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _pick(stream: Tensor, clip: Tensor) -> Tensor:
    """One clip of every sample: stream [K, B, L, F], clip [B] -> [K, B, F]."""
    index = clip[None, :, None, None].expand(stream.shape[0], -1, 1, stream.shape[-1])
    return stream.gather(2, index).squeeze(2)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` (broadcast to them) holds; 0 where it holds nowhere."""
    mask = mask.expand_as(values)
    return (values * mask).sum() / mask.sum().clamp(min=1)
