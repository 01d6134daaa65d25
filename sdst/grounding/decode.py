"""From a model's outputs to moments in seconds, and from a checkpoint to predictions of a split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sdst.checkpoint import load_checkpoint
from sdst.config import PRECISIONS, PredictConfig
from sdst.data.annotations import Annotation
from sdst.data.batches import GroundingDataset, collate
from sdst.errors import InputError
from sdst.grounding.zero_shot import zero_shot_moments
from sdst.kernels import library, temporal_nms
from sdst.model import Outputs
from sdst.model.spans import to_ends
from sdst.sources import open_data


@dataclass
class Prediction:
    """The answer to one query.

    Attributes:
        windows: [M, 3], start and end in seconds and score, best first.
        saliency: [L], score per clip.
    """

    windows: np.ndarray
    saliency: np.ndarray


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse one that is none, or that would make answers on `device` slower.

    Raises:
        InputError: `precision` is not one of PRECISIONS, or bf16 where no products of it are.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r}: expected one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and device.type == "cpu" and not library.multiplies_bf16():
        raise InputError(
            "precision bf16: this processor has no products of bf16 (AVX512_BF16), or the native "
            "library was not built; leave it out for fp32"
        )


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
) -> list[Prediction]:
    """The last step's moments, ranked, in seconds and inside their video.

    Args:
        outputs: of B samples.
        lengths: [B], valid clips.
        durations: B, seconds.
        clip_length: seconds per clip.
        options: rounding and suppression; the default does neither.
    """
    options = options or PredictConfig()
    seconds = (lengths * clip_length).float()
    ends = to_ends(outputs.spans[-1].float()) * seconds[:, None, None]
    limit = torch.tensor(durations, dtype=torch.float32, device=ends.device)[:, None, None]
    ends = torch.minimum(ends.clamp(min=0), limit)
    if options.round_to is not None:
        ends = round_ends(ends, limit, options.round_to)
    order, scores = rank(ends, outputs.scores[-1].float(), options)
    ends = ends.gather(1, order.clamp(min=0)[..., None].expand(-1, -1, 2))
    windows = torch.cat((ends, scores[..., None]), dim=-1).cpu().numpy()
    kept = (order >= 0).sum(1).tolist()
    saliency = outputs.saliency[-1].float().cpu().numpy()
    return [
        Prediction(sample[:count], curve[:length])
        for sample, count, curve, length in zip(
            windows, kept, saliency, lengths.tolist(), strict=True
        )
    ]


def round_ends(ends: Tensor, limit: Tensor, unit: float) -> Tensor:
    """Starts and ends [B, M, 2] as multiples of `unit`, at least one apart where the video allows.

    What lies at the video's end, `limit` [B, 1, 1], stays there.
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


def predict(
    model: nn.Module,
    dataset: GroundingDataset,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
    options: PredictConfig | None = None,
    precision: str = "fp32",
) -> list[dict]:
    """Predictions for every query of `dataset`, in its order, as official submission records.

    Args:
        precision: of the model's products, one of PRECISIONS.

    Raises:
        InputError: an answer is not finite, or the processor lacks the precision.
    """
    device = torch.device(device)
    check_precision(precision, device)
    model.eval()
    loader = DataLoader(dataset, batch_size, collate_fn=lambda samples: samples)
    records = []
    for samples in tqdm(loader, desc="predict", leave=False, disable=not progress):
        batch = collate(samples).to(device)
        annotations = [sample.annotation for sample in samples]
        durations = [annotation.duration for annotation in annotations]
        with inference(device, precision):
            outputs = model(*batch.inputs())
        check_finite(outputs)
        answers = decode(outputs, batch.video_lengths, durations, dataset.clip_length, options)
        records += [as_record(a, answer) for a, answer in zip(annotations, answers, strict=True)]
    return records


def check_finite(outputs: Outputs) -> None:
    """Refuse answers of a model whose training diverged."""
    if not (outputs.spans[-1].isfinite().all() and outputs.scores[-1].isfinite().all()):
        raise InputError(
            "the model's answers are not finite: its training diverged; lower train.lr or check "
            "the features for NaN"
        )


def predict_zero_shot(dataset: GroundingDataset) -> list[dict]:
    """What the frozen backbone alone answers, by similarity of clips and sentence; the baseline.

    Raises:
        InputError: the features come without embeddings in a space shared by video and text.
    """
    if not dataset.source.shapes["embed_width"]:
        raise InputError(
            f"{dataset.source.path}: zero-shot needs features with embeddings in a space shared by "
            "video and text; these have none"
        )
    records = []
    for annotation in dataset.annotations:
        clips = dataset.source.video(annotation.vid).embedding
        sentence = dataset.source.query(annotation.qid).embedding
        if isinstance(clips, Tensor):  # of a store in the memory of a device
            clips, sentence = clips.cpu().numpy(), sentence.cpu().numpy()
        windows, saliency = zero_shot_moments(
            clips, sentence, dataset.clip_length, annotation.duration
        )
        records.append(as_record(annotation, Prediction(np.asarray(windows), saliency)))
    return records


def as_record(annotation: Annotation, answer: Prediction) -> dict:
    """One line of an official submission file."""
    return {
        "qid": annotation.qid,
        "query": annotation.query,
        "vid": annotation.vid,
        "pred_relevant_windows": [[round(float(x), 4) for x in row] for row in answer.windows],
        "pred_saliency_scores": [float(x) for x in answer.saliency],
    }


def predict_split(
    checkpoint: Path, split: str, precision: str = "fp32"
) -> tuple[list[dict], list[Annotation], float]:
    """Predictions of a checkpoint on a split, with its annotations and the seconds of a clip."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, model = load_checkpoint(checkpoint)
    dataset = open_data(config).dataset(split)
    records = predict(
        model.to(device),
        dataset,
        config.train.batch_size,
        device,
        options=config.predict,
        precision=precision,
    )
    return records, dataset.annotations, config.data.clip_length
