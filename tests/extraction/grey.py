"""Extraction by a backbone that sees the grey of a frame, alone and in shares."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch

from sdst.backbones import FrameFeatures, TextFeatures
from sdst.extraction.pipeline import Report, extract_features
from sdst.extraction.settings import Settings
from sdst.extraction.shards import Share, extract_share

QUERIES = {1: "a red ball", "two": "a dog that runs away"}
K, P, WIDTH = 2, 3, 4


class GreyBackbone:
    """A frame's features are its mean grey level over 255, a sentence's its number of words."""

    name = "grey"
    fingerprint = "grey-1"
    device = torch.device("cpu")
    image_size: tuple[int, int] = (16, 16)
    frames_at_once = 1
    layers, tokens_per_frame = K, P
    video_width = text_width = embed_width = WIDTH

    @property
    def preprocessing(self) -> dict:
        return {}

    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        grey = torch.from_numpy(frames.mean(axis=(1, 2, 3)) / 255).float()
        return FrameFeatures(
            grey.view(1, -1, 1, 1).expand(K, -1, P, WIDTH), grey.view(-1, 1).expand(-1, WIDTH)
        )

    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        counts = [len(text.split()) for text in texts]
        return [TextFeatures(torch.full((K, n, WIDTH), n), torch.ones(WIDTH)) for n in counts]

    def unread(self, texts: Sequence[str]) -> list[str]:
        return ["" for _ in texts]

    def release_text(self) -> None: ...


def write_video(path: Path, levels: Sequence[int]) -> Path:
    """Two frames a second, of the given grey levels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options={"crf": "4"})
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def extract(
    videos: dict[str, Path],
    out: Path,
    queries: dict = QUERIES,
    progress: bool = False,
    resume: bool = False,
    report: Report | None = None,
    **options,
):
    """By the grey backbone; `options` are `Settings`."""
    how = {"progress": progress, "resume": resume, "report": report}
    return extract_features(videos, queries, GreyBackbone(), out, Settings(**options), **how)


def run_share(rank: int, videos: dict[str, Path], out: Path, world: int = 2, **options):
    """The store (in the first process) and the report of one process."""
    report = Report()
    settings = Settings(**{"clip_length": 1.0, **options})
    share = Share(rank, world)
    store = extract_share(share, videos, QUERIES, GreyBackbone(), out, settings, report)
    return store, report
