"""From features to moments in tensors alone: what is exported of a model."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdst.config import PredictConfig
from sdst.grounding.decode import ranked_windows, saliency_of
from sdst.model import SDST
from sdst.model.calibration import MARGIN, UNCALIBRATED, Logistic, Rising
from sdst.model.layers import length_mask


class Answering(nn.Module):
    """The answers of `sdst.grounding.decode` to a model's outputs, one video for each sentence.

    Args:
        model: trained.
        clip_length: seconds per clip.
        options: how its moments become an answer.
    """

    def __init__(self, model: SDST, clip_length: float, options: PredictConfig) -> None:
        super().__init__()
        self.model, self.clip_length, self.options = model, clip_length, options
        self.calibration = model.calibration or UNCALIBRATED
        config = model.config
        strides = config.strides + (config.context_strides if model.selection is not None else ())
        self._spare = 2 * max(strides)

    @property
    def outputs(self) -> list[str]:
        """Names of what is answered, in their order."""
        known = ["presence"] if self.calibration.presence is not None else []
        return ["windows", "kept", "saliency", *known]

    def forward(
        self,
        video: Tensor,
        text: Tensor,
        video_lengths: Tensor,
        text_lengths: Tensor,
        durations: Tensor,
    ) -> dict[str, Tensor]:
        """Answer a batch of sentences.

        Args:
            video: [B, K, L, P, Dv], fp32.
            text: [B, K, N, Dt], fp32.
            video_lengths: [B], valid clips of L.
            text_lengths: [B], valid tokens of N.
            durations: [B], seconds, fp32.

        Returns:
            `windows` [B, M, 3], start and end in seconds and score, best first; `kept` [B], how
            many of them are an answer; `saliency` [B, L], 0 beyond `video_lengths`; `presence`
            [B], where the model knows it.
        """
        clips = video.shape[2]
        # To torch.export a size of 1 is a constant: with these clips no level of a pyramid has it.
        # Padding changes no answer.
        video = functional.pad(video, (0, 0, 0, 0, 0, self._spare))
        encoded = self.model.encode_video(video, video_lengths)
        outputs = self.model.answer(encoded, text, text_lengths, every_step=False)
        windows, kept = ranked_windows(
            outputs, video_lengths, durations, self.clip_length, self.options
        )
        if self.calibration.windows is not None:
            scores = interpolated(self.calibration.windows, windows[..., 2])
            windows = torch.cat((windows[..., :2], scores[..., None]), -1)
        saliency = saliency_of(outputs, video_lengths, self.options)[:, :clips]
        answers = {
            "windows": windows,
            "kept": kept,
            "saliency": saliency.where(length_mask(video_lengths, clips), 0.0),
        }
        if self.calibration.presence is not None:
            answers["presence"] = probability(self.calibration.presence, outputs.evidence)
        return answers


def interpolated(curve: Rising, scores: Tensor) -> Tensor:
    """`curve(scores)` [...] of scores [...], as a sum of ramps."""
    inside = scores.double().clamp(MARGIN, 1 - MARGIN)
    logits = (inside / (1 - inside)).log()
    total = torch.full_like(logits, curve.probabilities[0])
    knots = zip(curve.logits, curve.probabilities, strict=True)
    for (left, low), (right, high) in pairwise(knots):
        ramp = (logits - left).relu() - (logits - right).relu()
        total = total + ramp * ((high - low) / (right - left))
    return total.to(scores.dtype)


def probability(curve: Logistic, x: Tensor) -> Tensor:
    """`curve(x)` [...] of x [..., D]."""
    weights = torch.tensor(curve.weights, dtype=torch.float64)
    return (x.double() @ weights + curve.bias).sigmoid().to(x.dtype)
