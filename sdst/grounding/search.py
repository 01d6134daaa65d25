"""The best moments across many videos: what `Grounder.search` reads, groups and ranks.

A moment's score is a probability within its video, as in training, where every video holds what is
asked for. Saliency says which video holds it, as it is trained against other videos as well,
as for the windows of a long one (`sdst.grounding.long_videos`):

    score(m) = p(m | video) * mean_t exp(scale * S_t) / (the same of the best moment)

over the window of clips around the moment, so that a video's length does not speak for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sdst.data.store.reader import FeatureStore, VideoFeatures
from sdst.errors import InputError
from sdst.grounding.corpus import Corpus
from sdst.grounding.decode import Prediction
from sdst.grounding.encoder import VideoEncoder
from sdst.verbosity import progress_bar


@dataclass(frozen=True)
class Found:
    """A moment of one of many videos.

    Args:
        vid: the video's id.
        start, end: seconds.
        score: the moment's probability, less where the video fits the query less than others.
    """

    vid: str
    start: float
    end: float
    score: float


class Ranking:
    """Collects the answers of videos and ranks the moments of all.

    Args:
        queries: how many are asked.
        top: most moments kept of a video, and given in the end, for each query.
        scale: the model's inverse temperature.
        clip_length: seconds per clip.
        stretch: clips around a moment whose saliency counts for it.
    """

    def __init__(
        self, queries: int, top: int, scale: float, clip_length: float, stretch: int
    ) -> None:
        self.top, self.scale = top, scale
        self.clip_length, self.stretch = clip_length, stretch
        # of each query: a video, a window with its score, and its evidence
        self._candidates: list[list[tuple[str, list[float], float]]] = [[] for _ in range(queries)]

    def add(self, vid: str, answers: Sequence[Prediction]) -> None:
        """Add the answers of a video to every query."""
        for candidates, answer in zip(self._candidates, answers, strict=True):
            candidates += [
                (vid, window, self._evidence(window, answer.saliency))
                for window in answer.windows[: self.top].tolist()
            ]

    def best(self) -> list[list[Found]]:
        """The best moments for every query, best first."""
        return [self._ranked(candidates) for candidates in self._candidates]

    def _ranked(self, candidates: list[tuple[str, list[float], float]]) -> list[Found]:
        most = max((evidence for *_, evidence in candidates), default=0.0)
        found = [
            Found(vid, start, end, score * math.exp(evidence - most))
            for vid, (start, end, score), evidence in candidates
        ]
        return sorted(found, key=lambda moment: -moment.score)[: self.top]

    def _evidence(self, window: list[float], saliency: np.ndarray) -> float:
        """log mean exp(scale * S_t) over the clips around a window."""
        clips = min(self.stretch, len(saliency))
        center = round((window[0] + window[1]) / 2 / self.clip_length)
        first = min(max(center - clips // 2, 0), len(saliency) - clips)
        logits = self.scale * saliency[first : first + clips].astype(float)
        return float(np.logaddexp.reduce(logits) - np.log(clips))


def videos_of(
    corpus: Corpus,
    encoder: VideoEncoder,
    skipped: list[str] | None = None,
    progress: bool = False,
    layers: bool = True,
) -> Iterator[tuple[str, VideoFeatures]]:
    """The features of many videos under their ids, one after the other.

    Args:
        corpus: of `open_corpus`; each file is read once.
        encoder: reads the files.
        skipped: receives a line for each file that cannot be read; without it that is an error.
        progress: show a bar.
        layers: a store must have as many as the backbone gives; embeddings depend on none.

    Raises:
        InputError: the store's features are not those that `encoder` makes, or a file cannot be
            read.
    """
    if isinstance(corpus, FeatureStore):
        _check_store(corpus, encoder, layers)
    for vid in progress_bar(corpus, "search", unit="video", disable=not progress):
        if isinstance(corpus, FeatureStore):
            yield vid, corpus.video(vid)
            continue
        try:
            yield vid, encoder.encode(corpus[vid])
        except InputError as error:
            if skipped is None:
                raise
            skipped.append(str(error))


def groups(
    videos: Iterable[tuple[str, VideoFeatures]], queries: int, most: int, stretch: int
) -> Iterator[list[tuple[str, VideoFeatures]]]:
    """Videos that may be answered together: a few short ones, or one that is long.

    Args:
        videos: ids and features.
        queries: asked of every video.
        most: tokens of a layer, padding included, that a group may have for all queries.
        stretch: clips above which a video is long.
    """
    group: list[tuple[str, VideoFeatures]] = []
    longest = 0
    for vid, video in videos:
        _, clips, per_clip, _ = video.tokens.shape
        longest = max(longest, clips)
        too_many = (len(group) + 1) * longest * per_clip * queries > most
        if group and (too_many or longest > stretch):
            yield group
            group, longest = [], clips
        group.append((vid, video))
    if group:
        yield group


def _check_store(store: FeatureStore, encoder: VideoEncoder, layers: bool) -> None:
    """Refuse a store whose features are not those that `encoder` makes."""
    backbone = encoder.backbone
    found = {name: store.meta.get(name) for name in ("clip_length", "frames_per_clip")}
    expected = {"clip_length": encoder.clip_length, "frames_per_clip": encoder.frames_per_clip}
    found["fingerprint"], expected["fingerprint"] = (
        fingerprint if layers else str(fingerprint).rpartition("-k")[0]
        for fingerprint in (store.meta.get("fingerprint"), backbone.fingerprint)
    )
    for name, value in expected.items():
        if found[name] != value:
            raise InputError(
                f"{store.path}: {name} {found[name]}, expected {value}; extract the videos with "
                f"--backbone {backbone.name} --layers {backbone.layers} "
                f"--clip-length {encoder.clip_length:g} --frames-per-clip {encoder.frames_per_clip}"
            )
