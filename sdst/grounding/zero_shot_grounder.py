"""Answers sentences about videos with a frozen backbone alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sdst.backbones import TextFeatures, load_backbone
from sdst.data.store.reader import VideoFeatures
from sdst.grounding.answers import Grounding
from sdst.grounding.asking import ask, check_top, parts_to_search
from sdst.grounding.corpus import Corpus, open_corpus
from sdst.grounding.decode import Prediction
from sdst.grounding.devices import pick_device
from sdst.grounding.encoder import VideoEncoder
from sdst.grounding.queries import as_queries
from sdst.grounding.search import Found, Ranking, videos_of
from sdst.grounding.zero_shot import zero_shot_moments
from sdst.indexing.clip_index import ClipIndex

CLIP_SCALE = 100.0  # inverse temperature that CLIP was trained to [P]
ZERO_SHOT_STRETCH = 32  # clips about a moment whose similarity speaks for its video


class ZeroShotGrounder:
    """Answers queries with the frozen backbone alone, by similarity; nothing need be trained.

    It is the baseline of every report, and any video works with it: `sdst.grounding.zero_shot`.

    Args:
        backbone: as for `load_backbone`.
        clip_length: seconds per clip.
        frames_per_clip: frames encoded per clip.
        device: default: CUDA where present, else the CPU.
    """

    def __init__(
        self,
        backbone: str,
        clip_length: float = 2.0,
        frames_per_clip: int | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        loaded = load_backbone(backbone, layers=1, device=pick_device(device))
        frames_per_clip = frames_per_clip or loaded.frames_at_once
        self.encoder = VideoEncoder(loaded, clip_length, frames_per_clip)
        self.backbone = loaded

    def ground(
        self, video: str | Path, queries: str | Sequence[str], top: int = 5, progress: bool = False
    ) -> list[Grounding]:
        """As `Grounder.ground`; a window's score is the excess of its clips' similarity, no
        probability."""
        encode_text = self.backbone.encode_text
        return ask(self.encoder, encode_text, self._answers, video, queries, top, progress)

    def _answers(
        self, video: VideoFeatures, texts: list[TextFeatures], top: int
    ) -> list[Prediction]:
        answers = [
            zero_shot_moments(
                np.asarray(video.embedding),
                text.embedding.cpu().numpy(),
                self.encoder.clip_length,
                video.duration,
                top,
            )
            for text in texts
        ]
        return [Prediction(np.asarray(windows), saliency) for windows, saliency in answers]

    def search(
        self,
        videos: Corpus | ClipIndex | str | Path | Sequence[str | Path],
        queries: str | Sequence[str],
        top: int = 10,
        skipped: list[str] | None = None,
        progress: bool = False,
    ) -> list[list[Found]]:
        """As `Grounder.search`; videos are weighed against each other at CLIP's temperature."""
        queries = as_queries(queries)
        check_top(top)
        corpus = videos if isinstance(videos, ClipIndex) else open_corpus(videos)
        progress &= not isinstance(corpus, ClipIndex)
        best: list[list[Found]] = []
        for part, texts in parts_to_search(corpus, self.backbone.encode_text(queries)):
            clip_length = self.encoder.clip_length
            ranking = Ranking(len(texts), top, CLIP_SCALE, clip_length, ZERO_SHOT_STRETCH)
            for vid, video in videos_of(part, self.encoder, skipped, progress, layers=False):
                ranking.add(vid, self._answers(video, texts, top))
            best += ranking.best()
        return best
