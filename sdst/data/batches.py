"""From annotations and stored features to padded batches."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdst.data.annotations import Annotation
from sdst.data.features import FeatureStore
from sdst.errors import InputError


@dataclass
class Sample:
    """One query on one video.

    Attributes:
        annotation: where it comes from.
        video: [K, L, P, Dv], a view into the store.
        text: [K, N, Dt].
        spans: [G, 2], moments as (center, width) in units of the L clips.
        saliency: [L], rating per clip.
        positive_clip: a clip with positive rating, -1 if there is none.
    """

    annotation: Annotation
    video: np.ndarray
    text: np.ndarray
    spans: np.ndarray
    saliency: np.ndarray
    positive_clip: int


@dataclass
class Batch:
    """Padded samples; the lengths say what is real.

    Attributes:
        video: [B, K, L, P, Dv].
        text: [B, K, N, Dt].
        video_lengths, text_lengths: [B].
        spans: [B, G, 2], G at least 1.
        span_counts: [B].
        saliency: [B, L].
        positive_clip: [B].
    """

    video: Tensor
    text: Tensor
    video_lengths: Tensor
    text_lengths: Tensor
    spans: Tensor
    span_counts: Tensor
    saliency: Tensor
    positive_clip: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        moved = (getattr(self, f.name).to(device, non_blocking=True) for f in fields(self))
        return Batch(*moved)

    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What `SDST.forward` takes."""
        return self.video, self.text, self.video_lengths, self.text_lengths


class GroundingDataset(Dataset):
    """Queries of a split with the features of their videos.

    The positive clip of a sample is drawn anew every epoch, as a function of (seed, epoch, index)
    alone, so that a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(
        self, annotations: list[Annotation], store: FeatureStore, clip_length: float, seed: int = 0
    ) -> None:
        missing = sorted({a.vid for a in annotations} - set(store.video_ids))
        if missing:
            raise InputError(
                f"{store.path}: no features for {len(missing)} annotated videos "
                f"(first: {missing[0]}); extract them again"
            )
        self.annotations = annotations
        self.store = store
        self.clip_length = clip_length
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> Sample:
        annotation = self.annotations[index]
        video = self.store.video(annotation.vid).tokens
        text = self.store.query(annotation.qid).tokens
        clips = video.shape[1]
        saliency = clip_ratings(annotation, clips, self.clip_length)
        return Sample(
            annotation,
            video,
            text,
            relative_spans(annotation, clips, self.clip_length),
            saliency,
            self._positive_clip(saliency, index),
        )

    def _positive_clip(self, saliency: np.ndarray, index: int) -> int:
        positive = np.flatnonzero(saliency > 0)
        if not len(positive):
            return -1
        generator = np.random.default_rng((self.seed, self.epoch, index))
        return int(generator.choice(positive))


def relative_spans(annotation: Annotation, clips: int, clip_length: float) -> np.ndarray:
    """[G, 2] (center, width) of the annotated windows, in units of the video's clips.

    What is annotated beyond the last clip is cut off, and a moment shorter than a clip is widened
    to one about its center, as R2-Tuning does for its targets: a finer one cannot be seen.
    """
    start, end = np.clip(_windows(annotation) / (clips * clip_length), 0.0, 1.0).T
    center = np.clip((start + end) / 2, 0.5 / clips, 1 - 0.5 / clips)
    return np.stack((center, np.maximum(end - start, 1 / clips)), axis=1).astype(np.float32)


def clip_ratings(annotation: Annotation, clips: int, clip_length: float) -> np.ndarray:
    """[clips] saliency: the annotators' mean, or 1 inside the windows where none was given.

    A clip is inside by its center; a moment too short for that has the clip it is centered on.
    """
    if annotation.saliency is not None:
        return annotation.saliency_per_clip(clips).astype(np.float32)
    windows = _windows(annotation)
    center = (np.arange(clips) + 0.5) * clip_length
    inside = (windows[:, :1] <= center) & (center < windows[:, 1:])
    ratings = inside.any(axis=0)
    short = windows[~inside.any(axis=1)].mean(axis=1)
    ratings[np.minimum(short // clip_length, clips - 1).astype(int)] = True
    return ratings.astype(np.float32)


def _windows(annotation: Annotation) -> np.ndarray:
    return np.asarray(annotation.windows or (), dtype=np.float32).reshape(-1, 2)


def collate(samples: list[Sample]) -> Batch:
    """Pad samples with zeros to the longest of each kind.

    The video keeps the store's number type and lies in memory layer by layer, as the model reads
    it; all else is fp32.
    """
    videos = [s.video for s in samples]
    return Batch(
        video=_pad(videos, axis=1, dtype=videos[0].dtype, batch_axis=1).transpose(0, 1),
        text=_pad([s.text for s in samples], axis=1),
        video_lengths=torch.tensor([s.video.shape[1] for s in samples]),
        text_lengths=torch.tensor([s.text.shape[1] for s in samples]),
        spans=_pad([s.spans for s in samples], axis=0, least=1),
        span_counts=torch.tensor([len(s.spans) for s in samples]),
        saliency=_pad([s.saliency for s in samples], axis=0),
        positive_clip=torch.tensor([s.positive_clip for s in samples]),
    )


def _pad(
    arrays: list[np.ndarray],
    axis: int,
    least: int = 0,
    dtype: np.dtype | type = np.float32,
    batch_axis: int = 0,
) -> Tensor:
    """Stack arrays that differ in size along `axis` alone, zeros after the shorter ones."""
    shape = list(arrays[0].shape)
    shape[axis] = max(least, *(a.shape[axis] for a in arrays))
    shape.insert(batch_axis, len(arrays))
    out = np.zeros(shape, dtype)
    for row, array in zip(np.moveaxis(out, batch_axis, 0), arrays, strict=True):
        row[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
    return torch.from_numpy(out)
