"""A store of videos about topics, each a direction that clips and sentences share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter

WIDTH = 16
META = {"backbone": "b", "fingerprint": "f-k2", "clip_length": 1.0, "frames_per_clip": 1}


def topic(name: str) -> np.ndarray:
    """[E], the direction of what a video is about."""
    vector = np.random.default_rng([*name.encode("utf-8", "surrogatepass")]).standard_normal(WIDTH)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def write_store(
    path: Path, videos: dict[str, int], meta: dict = META, seed: int = 0
) -> FeatureStore:
    """Videos of so many clips, each about its own name; those that are there stay."""
    with FeatureWriter(path, meta, resume=True) as writer:
        for vid, clips in videos.items():
            generator = np.random.default_rng([seed, *vid.encode("utf-8", "surrogatepass")])
            noise = generator.standard_normal((clips, WIDTH)) / 40
            embedding = topic(vid) + noise
            embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
            tokens = generator.standard_normal((2, clips, 1, 4))
            video = writer.begin_video(vid, clips, origin=seed)
            video.write(tokens, embedding)
            video.finish(float(clips))
    return FeatureStore(path)
