"""Features of random numbers, for stores in tests."""

from __future__ import annotations

import numpy as np

K, P, DV, DT, E = 3, 5, 8, 6, 4
META = {"backbone": "toy", "fingerprint": "f00", "clip_length": 2.0, "frames_per_clip": 1}


def video_features(clips: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, clips, P, DV)), rng.normal(size=(clips, E))


def text_features(length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, length, DT)), rng.normal(size=E)
