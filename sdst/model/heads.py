"""Predictions from the two streams after every step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sdst.model.layers import MLP, length_mask


class MomentHeads(nn.Module):
    """Refined reference, class and actionness of every query; shared by all steps.

    The last layer that moves references is zero at the start, so they begin where they were [D:
    DAB-/Deformable-DETR]. The class starts at probability 0.01 (bias -log 99) [D].
    """

    def __init__(self, width: int, refinement: str = "logit") -> None:
        super().__init__()
        self.move = REFINEMENTS[refinement]
        self.boundaries = MLP(width, width, width, 2)
        self.class_logit = nn.Linear(width, 1)
        self.actionness = MLP(width, width, width, 1)
        for parameter in self.boundaries[-1].parameters():
            nn.init.zeros_(parameter)
        nn.init.constant_(self.class_logit.bias, -math.log(99))

    def refine(self, hidden: Tensor, references: Tensor) -> Tensor:
        """hidden [B, M, F], references [B, M, 2] -> spans [B, M, 2]."""
        return self.move(self.boundaries(hidden), references)

    def rate(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden [B, M, F] -> class logits and actionness, [B, M] each."""
        return self.class_logit(hidden).float().squeeze(-1), actionness(self.actionness(hidden))


def move_logits(by: Tensor, references: Tensor) -> Tensor:
    """R <- sigmoid(x + logit(R)), x and R [B, M, 2]  [D: DAB-/Deformable-DETR]."""
    return (by.float() + inverse_sigmoid(references)).sigmoid()


def move_relatively(by: Tensor, references: Tensor) -> Tensor:
    """c <- c + x_c w / 2, w <- 4 w sigmoid(x_w - log 3); x and R [B, M, 2]  [D, ours].

    In units of the reference, as RDSA looks around it: how far to move does not depend on where in
    the video the reference is, nor on how wide. A step makes it at most four times as wide.
    """
    return _MoveRelatively.apply(by.float(), references.float())


class _MoveRelatively(torch.autograd.Function):
    """Within the video, with the gradient of no bounds: what ran against an end is led back."""

    @staticmethod
    def forward(ctx, by: Tensor, references: Tensor) -> Tensor:
        (center, width), (shift, growth) = references.unbind(-1), by.unbind(-1)
        share = (growth - LOG_3).sigmoid()
        wide, half = 4 * width * share, width / 2
        ctx.save_for_backward(half, torch.addcmul(wide, wide, share, value=-1), shift, share)
        return torch.stack((torch.addcmul(center, shift, half), wide), -1).clamp_(NARROWEST, 1.0)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        [grad], [*slopes, shift, share] = grads, ctx.saved_tensors
        by_references = None
        if ctx.needs_input_grad[1]:
            center, width = grad.unbind(-1)
            by_width = torch.addcmul(center * shift / 2, width, share, value=4)
            by_references = torch.stack((center, by_width), -1)
        return grad * torch.stack(slopes, -1), by_references


REFINEMENTS = {"logit": move_logits, "relative": move_relatively}
LOG_3 = math.log(3)
NARROWEST = 1e-4  # of the video


def actionness(logits: Tensor) -> Tensor:
    """[B, M, 1] -> [B, M]."""
    return logits.float().sigmoid().squeeze(-1)


class TextPooling(nn.Module):
    """Attention pooling of the sentence with one learned vector, masked."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, 1, bias=False)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """text [..., N, F], mask [..., N] True at real tokens -> [..., F]."""
        scores = self.query(text).squeeze(-1).masked_fill(~mask, -torch.inf)
        return torch.einsum("...n,...nf->...f", scores.softmax(-1), text)


def saliency_scores(dense: Tensor, sentence: Tensor) -> Tensor:
    """Cosine of every clip with the sentence: dense [..., L, F], sentence [..., F] -> [..., L].

    In fp32 under autocast, too: clips are ranked by it, and in bf16 many would be alike.
    """
    with torch.autocast(dense.device.type, enabled=False):
        dense = functional.normalize(dense.float(), dim=-1)
        sentence = functional.normalize(sentence.float(), dim=-1)
        return torch.einsum("...lf,...f->...l", dense, sentence)


def saliency_peak(dense: Tensor, sentence: Tensor, lengths: Tensor) -> Tensor:
    """[B], the greatest saliency over the valid clips: dense [B, L, F], sentence [B, F].

    As `saliency_scores`, without a normalised copy of the stream.
    """
    with torch.autocast(dense.device.type, enabled=False):
        dense, sentence = dense.float(), functional.normalize(sentence.float(), dim=-1)
        along = (dense @ sentence[..., None]).squeeze(-1)
        cosine = along / torch.linalg.vector_norm(dense, dim=-1).clamp(min=1e-12)
    return cosine.masked_fill(~length_mask(lengths, dense.shape[1]), -1.0).amax(1)


def inverse_sigmoid(x: Tensor, eps: float = 1e-4) -> Tensor:
    """logit(x) with x kept `eps` inside (0, 1), so that it and its gradient stay finite."""
    return x.float().clamp(eps, 1 - eps).logit()
