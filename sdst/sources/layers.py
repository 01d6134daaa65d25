"""The last layers of features that hold more."""

from __future__ import annotations

from sdst.data.store.reader import FeatureSource, QueryFeatures, VideoFeatures


class LastLayers:
    """A `FeatureSource` over the last `layers` of another's.

    Attributes:
        source: the whole features.
        path: where they are.
    """

    def __init__(self, source: FeatureSource, layers: int) -> None:
        self.source, self.path = source, source.path
        self.shapes = {**source.shapes, "layers": layers}
        self._kept = slice(source.shapes["layers"] - layers, None)

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
        """The queries that have features."""
        return self.source.query_ids

    def video(self, vid: str) -> VideoFeatures:
        """A video's features, views as the source's are."""
        whole = self.source.video(vid)
        scales = None if whole.scales is None else whole.scales[self._kept]
        return VideoFeatures(whole.tokens[self._kept], whole.embedding, whole.duration, scales)

    def query(self, qid: int | str) -> QueryFeatures:
        """A sentence's features, likewise."""
        whole = self.source.query(qid)
        return QueryFeatures(whole.tokens[self._kept], whole.embedding)
