"""Losses of every refinement step [P: losses on all steps; weights D: TadTR, R2-Tuning].

All terms are computed for the K steps at once and averaged over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sdst.model.config import LossConfig
from sdst.model.contrast import contrastive_losses
from sdst.model.layers import length_mask
from sdst.model.moment_losses import moment_losses
from sdst.model.spans import mean_outside
from sdst.model.tuner import Outputs

# exp(_NEVER) is 0 and its gradient too, where -inf would give NaN.
_NEVER = -1e4
_LARGEST = torch.finfo(torch.float32).max  # torch.add refuses a finite weight beyond it


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
    truth, dropout = (targets.spans, targets.counts), weights.query_dropout
    terms = moment_losses(spans, logits, actionness, *truth, dropout, partly)
    terms["saliency"] = saliency_loss(scale * saliency, targets.saliency, targets.lengths)
    terms |= contrastive_losses(sentence, clip, visual, scale, anchored)
    if weights.outside and outputs.offsets is not None and outputs.references is not None:
        terms["outside"] = mean_outside(outputs.offsets, outputs.references)
    total = spans.new_zeros(())
    for name, term in terms.items():
        weight = getattr(weights, name)
        total = torch.add(total, term, alpha=weight if weight <= _LARGEST else torch.inf)
    return total, terms


def saliency_loss(logits: Tensor, rating: Tensor, lengths: Tensor) -> Tensor:
    """InfoNCE of every positive clip against the clips of its video rated lower.

    The method draws one positive clip; all are taken here, which is its expectation, and averaged
    over the positive clips of a sample, then over samples that have any.

    Args:
        logits: [K, B, L], cosines over temperature.
        rating: [B, L], positive where the sentence holds.
        lengths: [B], valid clips.
    """
    return _Saliency.apply(logits, rating, lengths)


class _Saliency(torch.autograd.Function):
    """[], with its gradient written down.

    Sorted by rating, the negatives of a clip are a prefix and the clips that it is a negative of a
    suffix. So a running log-sum-exp from either end serves them all.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, rating: Tensor, lengths: Tensor) -> Tensor:
        padding = ~length_mask(lengths, logits.shape[-1])
        rating, order = rating.masked_fill(padding, torch.inf).sort(dim=-1, stable=True)
        order = order.expand_as(logits)
        logits = logits.gather(2, order)
        lower = torch.searchsorted(rating, rating, right=False)  # [B, L] clips rated lower
        higher = torch.searchsorted(rating, rating, right=True)  # the first clip rated higher
        counted = (rating > 0) & (rating < torch.inf) & (lower > 0)
        clips = counted.sum(-1, keepdim=True)
        share = counted / (clips.clamp(min=1) * (clips > 0).sum().clamp(min=1) * len(logits))

        before = (lower - 1).clamp(min=0).expand_as(logits)
        negatives = logits.logcumsumexp(-1).gather(2, before)
        margin = negatives - logits
        pushed = margin.sigmoid() * share  # how the loss falls with the logit of a positive clip
        ahead = pushed.log().clamp(min=_NEVER) - negatives
        ahead = ahead.flip(-1).logcumsumexp(-1).flip(-1)
        ahead = functional.pad(ahead, (0, 1), value=_NEVER).gather(2, higher.expand_as(logits))
        slope = (logits + ahead).exp() - pushed
        ctx.save_for_backward(torch.empty_like(slope).scatter_(2, order, slope))
        return (functional.softplus(margin) * share).sum()

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        [grad], [slope] = grads, ctx.saved_tensors
        return slope * grad, None, None


def _widen(x: Tensor) -> Tensor:
    """In fp32 at least: a temperature of 100 is too much for what autocast leaves in 16 bits."""
    return x.float() if x.dtype.itemsize < 4 else x


def _pick(stream: Tensor, clip: Tensor) -> Tensor:
    """One clip of every sample: stream [K, B, L, F], clip [B] -> [K, B, F]."""
    index = clip[None, :, None, None].expand(stream.shape[0], -1, 1, stream.shape[-1])
    return stream.gather(2, index).squeeze(2)
