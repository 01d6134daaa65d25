"""How videos become features."""

from __future__ import annotations

from dataclasses import dataclass

from sdst.backbones import Backbone
from sdst.data.video import Reader


@dataclass(frozen=True)
class Settings:
    """Settings of an extraction: which features, and within how much memory.

    Args:
        clip_length: seconds of video per clip.
        frames_per_clip: frames encoded per clip, evenly spaced.
        store_dtype: of the store, one of `sdst.data.store.reader.STORED`.
        memory: bytes that the process may take (`sdst.memory.own_memory`); smaller batches are
            slower, and may change the last bit of a feature. The text tower is freed where no
            sentence is encoded. None sets no bound.
        reader: of video files.
    """

    clip_length: float
    frames_per_clip: int = 1
    store_dtype: str = "float16"
    memory: int | None = None
    reader: Reader = "pyav"

    def meta(self, backbone: Backbone) -> dict:
        """The `meta` of a store: what decides its features, besides the videos and queries."""
        meta = {
            "backbone": backbone.name,
            "fingerprint": backbone.fingerprint,
            "clip_length": self.clip_length,
            "frames_per_clip": self.frames_per_clip,
        }
        # Stores of PyAV's frames have no such key.
        return meta if self.reader == "pyav" else {**meta, "reader": self.reader}
