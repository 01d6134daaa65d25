"""Features whose sentences say nothing, for saliency from the video alone."""

from __future__ import annotations

import numpy as np

from sdst.data.store.reader import FeatureSource, QueryFeatures, VideoFeatures


class WithoutSentences:
    """A `FeatureSource` over another's videos, in which every query is one word of zeros.

    Its projection is then a learned vector, the same for all videos, which saliency is the cosine
    with.

    Attributes:
        source: the videos, perhaps with sentences.
        path: where they are.
    """

    def __init__(self, source: FeatureSource, text_width: int) -> None:
        self.source, self.path = source, source.path
        # Without a sentence there is nothing that a backbone alone could compare clips with.
        self.shapes = {**source.shapes, "text_width": text_width, "embed_width": 0}

    @property
    def identity(self) -> list:
        """The source's."""
        return self.source.identity

    @property
    def video_ids(self) -> list[str]:
        """The videos that have features."""
        return self.source.video_ids

    @property
    def query_ids(self) -> list[int | str]:
        """None that is known: any query has features."""
        return []

    def video(self, vid: str) -> VideoFeatures:
        """A video's features."""
        return self.source.video(vid)

    def query(self, qid: int | str) -> QueryFeatures:
        """The same for every query."""
        return QueryFeatures(np.zeros((1, 1, self.shapes["text_width"]), np.float32), None)
