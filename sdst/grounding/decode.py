"""From a model's outputs to moments in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdst.config import PRECISIONS, PredictConfig
from sdst.errors import InputError
from sdst.grounding.snapping import snap
from sdst.kernels import library, temporal_nms
from sdst.model import Outputs
from sdst.model.calibration import UNCALIBRATED, Calibration
from sdst.model.layers import length_mask
from sdst.model.spans import to_ends


@dataclass
class Prediction:
    """The answer to one query.

    Attributes:
        windows: [M, 3], start and end in seconds and score, best first.
        saliency: [L], score per clip.
        presence: probability that the video has what the sentence says; None where the model has
            no curve for it.
    """

    windows: np.ndarray
    saliency: np.ndarray
    presence: float | None = None


def check_precision(precision: str, device: torch.device) -> str:
    """The precision of answers on `device`: `auto` is bf16 where it is native, else fp32.

    Raises:
        InputError: `precision` is none, or bf16 on a CPU that would be slower in it.
    """
    if precision == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: expected one of auto, {', '.join(PRECISIONS)}")
    if precision == "bf16" and device.type == "cpu" and not _has_bf16(device):
        raise InputError(
            "precision bf16: this CPU has no bf16 matrix multiplies (AVX512_BF16), or the native "
            "library was not built; leave it out for fp32"
        )
    return precision


def _has_bf16(device: torch.device) -> bool:
    """Whether it multiplies bf16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return library.multiplies_bf16()


@contextmanager
def inference(device: torch.device, precision: str) -> Iterator[None]:
    """No gradients, and the model's products in `precision`."""
    bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), bf16:
        yield


def decode(
    outputs: Outputs,
    lengths: Tensor,
    durations: Sequence[float],
    clip_length: float,
    options: PredictConfig | None = None,
    calibration: Calibration | None = None,
) -> list[Prediction]:
    """The last step's moments, ranked, in seconds and inside their video.

    Args:
        outputs: of B samples.
        lengths: [B], valid clips.
        durations: B, seconds.
        clip_length: seconds per clip.
        options: rounding and suppression; the default does neither.
        calibration: makes probabilities of the scores of ranked moments, and gives presence.
    """
    options, calibration = options or PredictConfig(), calibration or UNCALIBRATED
    limits = torch.tensor(durations, dtype=torch.float32, device=lengths.device)
    ranked, kept = ranked_windows(outputs, lengths, limits, clip_length, options)
    windows = ranked.cpu().numpy()
    windows[..., 2] = calibration.scores(windows[..., 2])
    saliency = saliency_of(outputs, lengths, options).cpu().numpy()
    presence = presence_of(outputs, calibration)
    return [
        Prediction(sample[:count], curve[:length], probability)
        for sample, count, curve, length, probability in zip(
            windows, kept.tolist(), saliency, lengths.tolist(), presence, strict=True
        )
    ]


def ranked_windows(
    outputs: Outputs,
    lengths: Tensor,
    durations: Tensor,
    clip_length: float,
    options: PredictConfig,
) -> tuple[Tensor, Tensor]:
    """Windows of B samples with their scores, best first [B, M, 3], and how many are kept [B].

    Args:
        outputs: of B samples.
        lengths: [B], valid clips.
        durations: [B], seconds.
        clip_length: seconds per clip.
        options: as for `decode`.
    """
    seconds = (lengths * clip_length).float()
    ends = to_ends(outputs.spans[-1].float()) * seconds[:, None, None]
    limit = durations[:, None, None]
    ends = torch.minimum(ends.clamp(min=0), limit)
    if isinstance(options.snap, float):
        snapped = snap(ends / clip_length, outputs.saliency[-1], lengths, options.snap)
        ends = torch.minimum(snapped * clip_length, limit)
    if options.round_to is not None:
        ends = round_ends(ends, limit, options.round_to)
    order, scores = rank(ends, outputs.scores[-1].float(), options)
    ends = ends.gather(1, order.clamp(min=0)[..., None].expand(-1, -1, 2))
    return torch.cat((ends, scores[..., None]), dim=-1), (order >= 0).sum(1)


def saliency_of(outputs: Outputs, lengths: Tensor, options: PredictConfig) -> Tensor:
    """Score per clip [B, L]; `lengths` [B] are valid."""
    saliency = outputs.saliency[-1].float()
    return smooth(saliency, lengths) if options.smooth else saliency


def presence_of(outputs: Outputs, calibration: Calibration) -> Sequence[float | None]:
    """`Prediction.presence` of B samples."""
    if calibration.presence is None:
        return [None] * outputs.spans.shape[1]
    return calibration.presence(outputs.evidence.cpu().numpy()).tolist()


def smooth(saliency: Tensor, lengths: Tensor) -> Tensor:
    """Saliency [B, L] of clips averaged with their neighbours, 1 2 1; `lengths` [B] are valid."""
    real = length_mask(lengths, saliency.shape[1])
    values = functional.pad(
        torch.stack((saliency.where(real, 0.0), real.to(saliency.dtype))), (1, 1)
    )
    total, weight = values[..., :-2] + 2 * values[..., 1:-1] + values[..., 2:]
    return total / weight.clamp(min=1.0)


def round_ends(ends: Tensor, limit: Tensor, unit: float) -> Tensor:
    """Starts and ends [B, M, 2] as multiples of `unit`, at least one apart where the video allows.

    Ends at the video's end, `limit` [B, 1, 1], stays there.
    """
    rounded = torch.where(ends < limit, (ends / unit).round() * unit, ends)
    start, end = torch.minimum(rounded, limit).split(1, dim=-1)
    end = torch.minimum(torch.maximum(end, start + unit), limit)
    start = torch.minimum(start, end - unit).clamp(min=0)
    return torch.cat((start, end), dim=-1)


def rank(ends: Tensor, scores: Tensor, options: PredictConfig) -> tuple[Tensor, Tensor]:
    """Order [B, M] of moments [B, M, 2] by score, -1 behind the last one kept, and their scores."""
    if options.nms == "none":
        scores, order = scores.sort(descending=True, stable=True)
        return order, scores
    return temporal_nms(
        ends,
        scores,
        method=options.nms,
        threshold=options.nms_threshold,
        sigma=options.nms_sigma,
    )
