"""Queries on videos: features, and the targets that annotations give them on the grid of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    Where every clip has labels, its rating is by how much their mean exceeds the video's. A query
    without any of these is of the whole video.
    """
    if annotation.saliency is not None:
        # Behind where a damaged video ends, perhaps.
        rated = max(clips, *(annotation.clip_ids or ()), 0)
        return annotation.saliency_per_clip(rated)[:clips].astype(np.float32)
    if annotation.labels is not None:
        return _above_average(annotation.labels, clips)
    if annotation.windows is None:
        return np.ones(clips, np.float32)
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

    Features and rounded durations may be one clip short; what begins later than that is behind
    the end of a damaged file.
    """
    windows = np.asarray(annotation.windows or (), dtype=np.float32).reshape(-1, 2)
    return windows[windows[:, 0] < (clips + 1) * clip_length]


def is_in_sight(annotation: Annotation, clips: int, clip_length: float) -> bool:
    """Whether any of the annotated moments is within reach of the video's clips, if it has any."""
    return not annotation.windows or len(_windows(annotation, clips, clip_length)) > 0
