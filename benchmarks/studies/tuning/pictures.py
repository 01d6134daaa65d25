"""Frames and token ids in place of features, for a backbone that trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from sdst.backbones import load_backbone
from sdst.backbones.openclip import OpenClipBackbone
from sdst.config import Config
from sdst.data.store.reader import QueryFeatures, VideoFeatures
from sdst.data.video import ClipReader, probe
from sdst.files.publish import publish, scratch_folder


def picture_backbone(config: Config, layers: int) -> OpenClipBackbone:
    """The backbone of `config`, which must be an image model."""
    backbone = load_backbone(config.data.backbone, layers)
    assert isinstance(backbone, OpenClipBackbone)
    return backbone


class Pictures:
    """A `FeatureSource` whose video tokens `[1, L, 1, 3 h w]` are the uint8 frames of the clips.

    Its query tokens `[1, N, 1]` are token ids. The videos are decoded and resized once, into
    `folder`, which appears complete or not at all.

    Args:
        folder: one file of frames `[L, 3 h w]` per video.
        videos: files by vid.
        queries: sentences by qid.
        backbone: whose size and vocabulary they get.
        clip_length: seconds; the frame of a clip is its middle one.
    """

    def __init__(
        self,
        folder: Path,
        videos: Mapping[str, Path],
        queries: Mapping[int | str, str],
        backbone: OpenClipBackbone,
        clip_length: float,
    ) -> None:
        self.path = folder
        self.shapes = {
            "layers": 1,
            "tokens_per_frame": 1,
            "video_width": 3 * backbone.image_size[0] * backbone.image_size[1],
            "text_width": 1,
            "embed_width": 0,
        }
        self._durations = {vid: probe(path).duration for vid, path in videos.items()}
        if not folder.is_dir():
            _decode(folder, videos, backbone, clip_length)
        ids, lengths = backbone.tokenize(list(queries.values()))
        self._ids = {
            qid: row[:length].numpy()
            for qid, row, length in zip(queries, ids, lengths, strict=True)
        }

    @property
    def identity(self) -> list:
        return [self.shapes]

    @property
    def video_ids(self) -> list[str]:
        return list(self._durations)

    @property
    def query_ids(self) -> list[int | str]:
        return list(self._ids)

    def video(self, vid: str) -> VideoFeatures:
        pictures = np.load(self.path / f"{vid}.npy", mmap_mode="r")
        return VideoFeatures(pictures[None, :, None], None, self._durations[vid])

    def query(self, qid: int | str) -> QueryFeatures:
        return QueryFeatures(self._ids[qid][None, :, None], None)


def _decode(
    folder: Path, videos: Mapping[str, Path], backbone: OpenClipBackbone, clip_length: float
) -> None:
    with scratch_folder(folder) as building:
        for vid, path in tqdm(videos.items(), desc="decoding", unit="video"):
            frames = np.concatenate(list(ClipReader(path, clip_length)))
            pictures = backbone.preprocess.fit(torch.from_numpy(frames))
            np.save(building / f"{vid}.npy", pictures.flatten(1).numpy())
        publish(building, folder)
