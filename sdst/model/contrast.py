"""The contrastive losses, whose gradients are written down instead of recorded.

Each is an InfoNCE over a small matrix of cosines. Recorded operation by operation they take some
two hundred launches of a training step, and a GPU has next to nothing to do in any of them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NAMES = ("contrast", "alignment", "layer_alignment")
# exp(_NEVER) is 0, where -inf would give NaN.
_NEVER = -1e4


def contrastive_losses(
    sentence: Tensor, clip: Tensor, visual: Tensor, scale: Tensor, anchored: Tensor
) -> dict[str, Tensor]:
    """InfoNCE of sentences with their own clip, over the samples that have one.

        contrast          sentence i against the clips of all samples, at every step
        alignment         the same with the clip's visual features, in both directions, averaged
        layer_alignment   a sample's sentences against its visual features of all steps, likewise

    Args:
        sentence, clip, visual: [K, B, F] in fp32 at least, the latter two of one clip of each
            sample.
        scale: [], that cosines are multiplied by.
        anchored: [B] bool, samples that have such a clip.

    Returns:
        A scalar by each of NAMES, the mean over steps and anchored samples; 0 without any.
    """
    with torch.autocast(sentence.device.type, enabled=False):  # nor is the backward pass under it
        terms = _Contrast.apply(sentence, clip, visual, scale, anchored)
    return dict(zip(NAMES, terms.unbind(), strict=True))


class _Contrast(torch.autograd.Function):
    """The three terms, [3].

    Of logits x and their target on the diagonal, d(-log softmax(x)_ii)/dx = softmax(x) - I.
    """

    @staticmethod
    def forward(
        ctx,
        sentence: Tensor,
        clip: Tensor,
        visual: Tensor,
        scale: Tensor,
        anchored: Tensor,
    ) -> Tensor:
        vectors = torch.stack((sentence, clip, visual))
        norms = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=1e-12)
        units = vectors / norms
        pairs = anchored & anchored[:, None]
        share = anchored / (len(sentence) * anchored.sum()).clamp(min=1)  # [B], of the mean

        across = units[0] @ units[1:].mT  # [2, K, B, B]
        logits = (scale * across).masked_fill(~pairs, _NEVER)
        rows, columns = logits.log_softmax(-1), logits[1].log_softmax(-2)
        between = units[0].transpose(0, 1) @ units[2].transpose(0, 1).mT  # [B, K, K]
        logits = scale * between
        step_rows, step_columns = logits.log_softmax(-1), logits.log_softmax(-2)

        contrast, forth = _diagonal(rows)
        alignment = torch.lerp(forth, _diagonal(columns), 0.5)
        layers = torch.lerp(_diagonal(step_rows), _diagonal(step_columns), 0.5).mT
        ctx.save_for_backward(
            *(norms, units, scale, share, across, between),
            *(rows, columns, step_rows, step_columns),
        )
        return -(torch.stack((contrast, alignment, layers)) * share).sum((1, 2))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        [grad] = grads
        norms, units, scale, share, across, between, *probabilities = ctx.saved_tensors
        rows, columns, step_rows, step_columns = (x.exp() for x in probabilities)
        sentence, visual = (units[i].transpose(0, 1) for i in (0, 2))  # [B, K, F]

        by_pair = rows * share[:, None]
        by_pair[1].lerp_(columns * share, 0.5)
        _diagonal(by_pair).sub_(share)
        by_pair *= grad[:2, None, None, None]
        by_step = torch.lerp(step_rows, step_columns, 0.5)
        _diagonal(by_step).sub_(1)
        by_step *= (grad[2] * share)[:, None, None]
        grad_scale = (by_pair * across).sum() + (by_step * between).sum()
        by_pair *= scale
        by_step *= scale

        ours = torch.empty_like(units)
        ours[0] = (by_pair @ units[1:]).sum(0) + (by_step @ visual).transpose(0, 1)
        ours[1:] = by_pair.mT @ units[0]
        ours[2] += (by_step.mT @ sentence).transpose(0, 1)
        along = (ours * units).sum(-1, keepdim=True)  # changes the length, which is 1
        ours = torch.addcmul(ours, units, along, value=-1) / norms
        return *ours.unbind(), grad_scale, None


def _diagonal(x: Tensor) -> Tensor:
    """[..., n, n] -> [..., n], a view."""
    return x.diagonal(dim1=-2, dim2=-1)
