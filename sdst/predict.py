"""From a model's outputs to moments in seconds, and from a checkpoint to predictions of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from sdst.checkpoint import load_checkpoint
from sdst.data.annotations import Annotation
from sdst.data.batches import GroundingDataset, collate
from sdst.data.sources import open_data
from sdst.model import Outputs
from sdst.model.spans import to_ends
from sdst.zero_shot import zero_shot_moments


@dataclass
class Prediction:
    """The answer to one query.

    Attributes:
        windows: [M, 3], start and end in seconds and score, best first.
        saliency: [L], score per clip.
    """

    windows: np.ndarray
    saliency: np.ndarray


def decode(
    outputs: Outputs, lengths: torch.Tensor, durations: Sequence[float], clip_length: float
) -> list[Prediction]:
    """The last step's moments, ranked, in seconds and inside their video.

    Args:
        outputs: of B samples.
        lengths: [B], valid clips.
        durations: B, seconds.
        clip_length: seconds per clip.
    """
    seconds = (lengths * clip_length).float()
    ends = to_ends(outputs.spans[-1].float()) * seconds[:, None, None]
    limit = torch.tensor(durations, dtype=torch.float32, device=ends.device)
    ends = torch.minimum(ends.clamp(min=0), limit[:, None, None])
    scores, order = outputs.scores[-1].float().sort(descending=True, stable=True)
    ends = ends.gather(1, order[..., None].expand(-1, -1, 2))
    windows = torch.cat((ends, scores[..., None]), dim=-1).cpu().numpy()
    saliency = outputs.saliency[-1].cpu().numpy()
    return [
        Prediction(sample, curve[:length])
        for sample, curve, length in zip(windows, saliency, lengths.tolist(), strict=True)
    ]


@torch.inference_mode()
def predict(
    model: nn.Module,
    dataset: GroundingDataset,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> list[dict]:
    """Predictions for every query of `dataset`, in its order, as official submission records."""
    model.eval()
    loader = DataLoader(dataset, batch_size, collate_fn=lambda samples: samples)
    records = []
    for samples in tqdm(loader, desc="predict", leave=False, disable=not progress):
        batch = collate(samples).to(torch.device(device))
        annotations = [sample.annotation for sample in samples]
        durations = [annotation.duration for annotation in annotations]
        answers = decode(
            model(*batch.inputs()), batch.video_lengths, durations, dataset.clip_length
        )
        records += [as_record(a, answer) for a, answer in zip(annotations, answers, strict=True)]
    return records


def predict_zero_shot(dataset: GroundingDataset) -> list[dict]:
    """What the frozen backbone alone answers, by similarity of clips and sentence; the baseline."""
    records = []
    for annotation in dataset.annotations:
        video = dataset.store.video(annotation.vid)
        sentence = dataset.store.query(annotation.qid)
        windows, saliency = zero_shot_moments(
            video.embedding, sentence.embedding, dataset.clip_length, annotation.duration
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


def predict_split(checkpoint: Path, split: str) -> tuple[list[dict], list[Annotation], float]:
    """Predictions of a checkpoint on a split, with its annotations and the seconds of a clip."""
    config, model = load_checkpoint(checkpoint)
    dataset = open_data(config).dataset(split)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    records = predict(model.to(device), dataset, config.train.batch_size, device)
    return records, dataset.annotations, config.data.clip_length
