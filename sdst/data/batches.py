"""From annotations and stored features to padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdst.data.annotations import Annotation
from sdst.data.store.reader import FeatureSource


@dataclass
class Sample:
    """One query on one video.

    Attributes:
        annotation: where it comes from.
        video: [K, L, P, Dv], a view into a store, or a tensor on its device. [1, L, P, Dv] where
            one stored layer serves all steps.
        scales: [K, L, P] of a video of int8, likewise; None of others.
        text: [K, N, Dt], or [1, N, Dt] likewise.
        layers: K.
        spans: [G, 2], moments as (center, width) in units of the L clips.
        saliency: [L], rating per clip.
        positive_clip: a clip with positive rating, -1 if there is none.
    """

    annotation: Annotation
    video: np.ndarray | Tensor
    scales: np.ndarray | Tensor | None
    text: np.ndarray | Tensor
    layers: int
    spans: np.ndarray
    saliency: np.ndarray
    positive_clip: int


@dataclass
class Batch:
    """Padded samples; the lengths say what is real.

    Attributes:
        video: [B, K, L, P, Dv]; a layer that serves all steps is there once, with stride 0.
        text: [B, K, N, Dt], likewise.
        video_lengths, text_lengths: [B].
        spans: [B, G, 2], G at least 1.
        span_counts: [B].
        saliency: [B, L].
        positive_clip: [B].
        scales: [B, K, L, P] of videos of int8, None of others.
    """

    video: Tensor
    text: Tensor
    video_lengths: Tensor
    text_lengths: Tensor
    spans: Tensor
    span_counts: Tensor
    saliency: Tensor
    positive_clip: Tensor
    scales: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self._each(partial(_move, device=device))

    def pin_memory(self) -> Batch:
        """The same batch in pinned memory, which a GPU copies from; for a `DataLoader`."""
        return self._each(_pin)

    def inputs(self) -> tuple[Tensor, ...]:
        """What `SDST.forward` takes; scales only where there are some."""
        inputs = self.video, self.text, self.video_lengths, self.text_lengths
        return inputs if self.scales is None else (*inputs, self.scales)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: change(x) for name, x in tensors.items() if x is not None})


class GroundingDataset(Dataset):
    """Queries of a split with the features of their videos.

    The positive clip of a sample is drawn anew every epoch, as a function of (seed, epoch, index)
    alone, so that a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(
        self,
        annotations: list[Annotation],
        source: FeatureSource,
        clip_length: float,
        layers: int,
        seed: int = 0,
    ) -> None:
        self.annotations = annotations
        self.source = source
        self.clip_length = clip_length
        self.layers = layers
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.annotations)

    def share(self, rank: int, processes: int) -> GroundingDataset:
        """Every `processes`-th query, beginning with number `rank`."""
        return self.asking(self.annotations[rank::processes])

    def asking(self, annotations: list[Annotation]) -> GroundingDataset:
        """Other queries on the same features."""
        return GroundingDataset(annotations, self.source, self.clip_length, self.layers, self.seed)

    def __getitem__(self, index: int) -> Sample:
        annotation = self.annotations[index]
        features = self.source.video(annotation.vid)
        video = features.tokens
        text = self.source.query(annotation.qid).tokens
        clips = video.shape[1]
        saliency = clip_ratings(annotation, clips, self.clip_length)
        return Sample(
            annotation,
            video,
            features.scales,
            text,
            self.layers,
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
    windows = _windows(annotation, clips, clip_length)
    start, end = np.clip(windows / (clips * clip_length), 0.0, 1.0).T
    center = np.clip((start + end) / 2, 0.5 / clips, 1 - 0.5 / clips)
    return np.stack((center, np.maximum(end - start, 1 / clips)), axis=1).astype(np.float32)


def clip_ratings(annotation: Annotation, clips: int, clip_length: float) -> np.ndarray:
    """[clips] saliency: the annotators' mean, or 1 inside the windows where none was given.

    A clip is inside by its center; a moment too short for that has the clip it is centered on.
    Where every clip has labels, its rating is by how much their mean exceeds the video's.
    """
    if annotation.saliency is not None:
        # Behind where a damaged video ends, perhaps.
        rated = max(clips, *(annotation.clip_ids or ()), 0)
        return annotation.saliency_per_clip(rated)[:clips].astype(np.float32)
    if annotation.labels is not None:
        return _above_average(annotation.labels, clips)
    windows = _windows(annotation, clips, clip_length)
    center = (np.arange(clips) + 0.5) * clip_length
    inside = (windows[:, :1] <= center) & (center < windows[:, 1:])
    ratings = np.asarray(inside.any(axis=0))
    short = windows[~inside.any(axis=1)].mean(axis=1)
    ratings[np.minimum(short // clip_length, clips - 1).astype(int)] = True
    return ratings.astype(np.float32)


def _above_average(labels: Sequence[Sequence[float]], clips: int) -> np.ndarray:
    """[clips] by how much a clip's mean label exceeds the video's, 0 where it does not.

    As in the metric of these datasets, a clip is positive beside the others of its video. Features
    may be some clips shorter or longer than the labels.
    """
    mean = np.mean(labels, axis=1)
    above = np.zeros(clips, np.float32)
    above[: len(mean)] = np.maximum(mean - mean.mean(), 0)[:clips]
    return above


def _windows(annotation: Annotation, clips: int, clip_length: float) -> np.ndarray:
    """[G, 2] the annotated windows in seconds, but those that the video's clips do not reach.

    Features and rounded durations may be one clip short; what begins later than that lies behind
    the end of a damaged file.
    """
    windows = np.asarray(annotation.windows or (), dtype=np.float32).reshape(-1, 2)
    return windows[windows[:, 0] < (clips + 1) * clip_length]


def is_in_sight(annotation: Annotation, clips: int, clip_length: float) -> bool:
    """Whether any of the annotated moments is within reach of the video's clips, if it has any."""
    return not annotation.windows or len(_windows(annotation, clips, clip_length)) > 0


def collate(samples: list[Sample], multiple: int = 1) -> Batch:
    """Pad samples with zeros to the longest of each kind, or the next multiple of `multiple`.

    The video keeps the store's dtype and is in memory layer by layer, as the model reads
    it; all else is fp32.
    """
    pad = partial(_pad, multiple=multiple)
    videos = [s.video for s in samples]
    video = pad(videos, axis=1, dtype=_number_type(videos[0]), batch_axis=1).transpose(0, 1)
    text = pad([s.text for s in samples], axis=1)
    layers, scales = samples[0].layers, None
    if of_samples := [s.scales for s in samples if s.scales is not None]:
        scales = pad(of_samples, axis=1, batch_axis=1).transpose(0, 1)
        scales = scales.expand(-1, layers, -1, -1)
    return Batch(
        video=video.expand(-1, layers, -1, -1, -1),
        text=text.expand(-1, layers, -1, -1),
        video_lengths=torch.tensor([s.video.shape[1] for s in samples]),
        text_lengths=torch.tensor([s.text.shape[1] for s in samples]),
        spans=pad([s.spans for s in samples], axis=0),
        span_counts=torch.tensor([len(s.spans) for s in samples]),
        saliency=pad([s.saliency for s in samples], axis=0),
        positive_clip=torch.tensor([s.positive_clip for s in samples]),
        scales=scales,
    )


def _pad(
    arrays: Sequence[np.ndarray | Tensor],
    axis: int,
    dtype: torch.dtype = torch.float32,
    batch_axis: int = 0,
    multiple: int = 1,
) -> Tensor:
    """Stack arrays that differ in size along `axis` alone, zeros after the shorter ones."""
    shape = list(arrays[0].shape)
    longest = max(1, *(a.shape[axis] for a in arrays))
    shape[axis] = -(-longest // multiple) * multiple
    shape.insert(batch_axis, len(arrays))
    device = arrays[0].device if isinstance(arrays[0], Tensor) else None
    out = torch.zeros(shape, dtype=dtype, device=device)
    for row, array in zip(out.movedim(batch_axis, 0), arrays, strict=True):
        real = (slice(None),) * axis + (slice(array.shape[axis]),)
        if isinstance(array, Tensor):
            row[real] = array
        else:
            row.numpy()[real] = array
    return out


def _number_type(values: np.ndarray | Tensor) -> torch.dtype:
    if isinstance(values, Tensor):
        return values.dtype
    return torch.from_numpy(np.empty(0, values.dtype)).dtype


def _move(values: Tensor, device: torch.device) -> Tensor:
    """`values` on `device`; what is repeated by a stride of 0 travels once."""
    return _once(values).to(device, non_blocking=True).expand_as(values)


def _pin(values: Tensor) -> Tensor:
    """`values` in pinned memory, unless they are on a device already."""
    if values.device.type != "cpu":
        return values
    return _once(values).pin_memory().expand_as(values)


def _once(values: Tensor) -> Tensor:
    """`values` without what a stride of 0 repeats."""
    return values[tuple(slice(1 if stride == 0 else None) for stride in values.stride())]
