"""The best moments across many videos: what `Grounder.search` reads, groups and ranks.

A moment's score is a probability within its video, as in training, where every video holds what is
asked for. Presence says which video holds it:

    score(m) = p(m | video) * o(video) / o(best video),  o = presence / (1 - presence)

which, were there one such video, is proportional to the probability of m. A model that was not
calibrated, and a backbone alone, have no presence; saliency stands in, as it is trained against
other videos as well, as for the windows of a long one (`sdst.grounding.long_videos`):

    o = mean_t exp(scale * S_t)

over the window of clips around the moment, so that a video's length does not speak for it. A moment
that a video has twice is found once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sdst.data.store.reader import FeatureStore, VideoFeatures
from sdst.errors import InputError
from sdst.grounding.answers import moments_to_show
from sdst.grounding.corpus import Corpus, PartOfStore
from sdst.grounding.decode import Prediction
from sdst.grounding.encoder import VideoEncoder
from sdst.terminal.verbosity import progress_bar


@dataclass(frozen=True)
class Found:
    """A moment of one of many videos.

    Args:
        vid: the video's id.
        start, end: seconds.
        score: the moment's probability, less where the video fits the query less than others.
        presence: probability that the video has what is asked for; None where the model was not
            calibrated for it.
    """

    vid: str
    start: float
    end: float
    score: float
    presence: float | None = None


class Candidate(NamedTuple):
    """A moment of a video before it is compared with others."""

    vid: str
    window: list[float]
    evidence: float
    presence: float | None


TINY = 1e-12  # that a presence keeps to 0 and 1 where it is compared


class Ranking:
    """Collects the answers of videos and ranks the moments of all.

    Args:
        queries: how many are asked.
        top: most moments kept of a video, and given in the end, for each query.
        scale: the model's inverse temperature.
        clip_length: seconds per clip.
        stretch: clips around a moment whose saliency counts for it, without presence.
        min_presence: of a video whose moments are kept.
    """

    def __init__(
        self,
        queries: int,
        top: int,
        scale: float,
        clip_length: float,
        stretch: int,
        min_presence: float = 0.0,
    ) -> None:
        self.top, self.scale, self.min_presence = top, scale, min_presence
        self.clip_length, self.stretch = clip_length, stretch
        # of each query: a video, a window with its score, log o of the moment, and presence
        self._candidates: list[list[Candidate]] = [[] for _ in range(queries)]

    def add(self, vid: str, answers: Sequence[Prediction]) -> None:
        """Add the answers of a video to every query."""
        for candidates, answer in zip(self._candidates, answers, strict=True):
            if answer.presence is None or answer.presence >= self.min_presence:
                candidates += [
                    Candidate(vid, window, self.evidence(window, answer), answer.presence)
                    for window in moments_to_show(answer.windows.tolist(), top=self.top)
                ]

    def best(self) -> list[list[Found]]:
        """The best moments for every query, best first."""
        return [self._ranked(candidates) for candidates in self._candidates]

    def evidence(self, window: list[float], answer: Prediction) -> float:
        """log o of a window `[start, end, score]` of a video."""
        if answer.presence is not None:
            return float(
                np.log(max(answer.presence, TINY)) - np.log(max(1 - answer.presence, TINY))
            )
        clips = min(self.stretch, len(answer.saliency))
        center = round((window[0] + window[1]) / 2 / self.clip_length)
        first = min(max(center - clips // 2, 0), len(answer.saliency) - clips)
        logits = self.scale * answer.saliency[first : first + clips].astype(float)
        return float(np.logaddexp.reduce(logits) - np.log(clips))

    def _ranked(self, candidates: list[Candidate]) -> list[Found]:
        most = max((candidate.evidence for candidate in candidates), default=0.0)
        found = [
            Found(vid, start, end, score * math.exp(evidence - most), presence)
            for vid, (start, end, score), evidence, presence in candidates
        ]
        return sorted(found, key=lambda moment: -moment.score)[: self.top]


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
    store = corpus.store if isinstance(corpus, PartOfStore) else corpus
    if isinstance(store, FeatureStore):
        _check_store(store, encoder, layers)
    for vid in progress_bar(corpus, "search", unit="video", disable=not progress):
        if isinstance(store, FeatureStore):
            yield vid, store.video(vid)
            continue
        try:
            yield vid, encoder.encode(store[vid])
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
