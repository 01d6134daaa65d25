"""Encodes video files once, for all questions that are asked about them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from sdst.backbones import Backbone, load_backbone, load_internvideo2
from sdst.backbones.published import NAMES as PUBLISHED
from sdst.backbones.published import load_published
from sdst.config import Config
from sdst.data.feature_files import endpoint_features
from sdst.data.store.reader import FeatureStore, VideoFeatures
from sdst.data.video.kinds import video_version
from sdst.data.video_files import is_picture_folder, is_url
from sdst.errors import InputError
from sdst.extraction.pipeline import Progress, Report, extract_features
from sdst.extraction.settings import Settings
from sdst.files.cache_folder import NoCacheError
from sdst.grounding.cache import grounding_cache, hold, limit, open_entry, trim
from sdst.grounding.recent import Recent
from sdst.grounding.sentences import LazyBackbone
from sdst.pretrained.description import Description

logger = logging.getLogger(__name__)

VIDEOS_IN_MEMORY = 4
_VID = "video"  # the only entry of a cached store
# A video is encoded by all cores, whose number of threads is a setting of the whole process.
_one_at_a_time = Lock()


class VideoEncoder:
    """A backbone's features of video files, kept in memory for those used last, on disk for all.

    The disk cache (`sdst.grounding.cache`) is `cache_dir()/grounding`; long videos stay
    memory-mapped. Threads may share an encoder.

    Args:
        backbone: frozen.
        clip_length: seconds per clip.
        frames_per_clip: frames encoded per clip.
        endpoints: append every clip's relative start and end to its tokens.
    """

    def __init__(
        self,
        backbone: Backbone,
        clip_length: float,
        frames_per_clip: int = 1,
        endpoints: bool = False,
    ) -> None:
        self.backbone, self.clip_length = backbone, clip_length
        self.frames_per_clip, self._endpoints = frames_per_clip, endpoints
        self._settings = Settings(clip_length, frames_per_clip)
        self._recent: Recent[str, VideoFeatures] = Recent(VIDEOS_IN_MEMORY)

    def encode(self, video: str | Path, progress: bool | Progress = False) -> VideoFeatures:
        """The features of a video file. What is wrong with a damaged one is logged.

        Args:
            video: a video file, a folder of pictures, or a URL, which is not cached on disk.
            progress: show a bar while it is encoded for the first time; or a function that is
                given the share that is done.

        Raises:
            InputError: it cannot be read.
        """
        path = video if is_url(video) else Path(video)
        if isinstance(path, Path) and not (path.is_file() or is_picture_folder(path)):
            raise InputError(f"{video}: no such video file")
        key = self._identity(path)
        place = _place(key) if isinstance(path, Path) else None
        return self._recent.get(key, partial(self._made, path, place, progress))

    @property
    def meta(self) -> dict:
        """What decides the features of a video, as a store of them has it."""
        return self._settings.meta(self.backbone)

    def forget(self, video: Path) -> None:
        """Remove the features of a video file from the disk; who uses them keeps them."""
        if (folder := _place(self._identity(video))) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _identity(self, path: str | Path) -> str:
        """Names a video's features: the file, the backbone and how clips are sampled."""
        identity = [
            *_file_identity(path),
            self.backbone.fingerprint,
            self.clip_length,
            self.frames_per_clip,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]

    def _made(
        self, path: str | Path, folder: Path | None, progress: bool | Progress
    ) -> VideoFeatures:
        features = self._load_or_encode(path, folder, progress)
        return with_endpoints(features) if self._endpoints else features

    def _load_or_encode(
        self, path: str | Path, folder: Path | None, progress: bool | Progress
    ) -> VideoFeatures:
        if folder is not None and (kept := _kept(folder)) is not None:
            logger.debug("%s: encoded before, in %s", path, folder)
            return kept
        logger.info("encoding %s", Path(path).name)
        with _one_at_a_time:
            try:
                if folder is not None:
                    most = limit()
                    self._encode(path, folder, progress)
                    if (made := _kept(folder)) is not None:
                        trim(folder.parent, most)
                        return made
            except (OSError, InputError) as error:
                # Another encoder may have been faster.
                if folder is not None and (kept := _kept(folder)) is not None:
                    return kept
                if isinstance(error, InputError):
                    raise
            # The cache cannot be written: the features stay in memory alone.
            with tempfile.TemporaryDirectory() as scratch:
                features = self._encode(path, Path(scratch) / "store", progress).video(_VID)
                return VideoFeatures(
                    np.array(features.tokens), np.array(features.embedding), features.duration
                )

    def _encode(self, path: str | Path, folder: Path, progress: bool | Progress) -> FeatureStore:
        report = Report(strict=True)
        videos, settings = {_VID: path}, self._settings
        store = extract_features(
            videos, {}, self.backbone, folder, settings, progress=progress, report=report
        )
        for fault in report.faults:
            logger.warning(fault)
        return store


def with_endpoints(features: VideoFeatures) -> VideoFeatures:
    """A video's tokens with every clip's start / L and end / L behind them."""
    tokens = np.asarray(features.tokens)
    ends = endpoint_features(tokens.shape, tokens.shape[1]).astype(tokens.dtype)
    joined = np.concatenate([tokens, ends], axis=3)
    return VideoFeatures(joined, features.embedding, features.duration)


def _file_identity(path: str | Path) -> list[str | int]:
    """The path of a file, its size and when it was written."""
    if is_url(path):
        return [str(path)]
    resolved = Path(path).resolve()
    if is_picture_folder(path):
        return [str(resolved), *video_version(path)]
    status = resolved.stat()
    return [str(resolved), status.st_size, status.st_mtime_ns]


def _place(key: str) -> Path | None:
    """Where a video's features are cached; None where the system has no place for it."""
    try:
        return grounding_cache() / key
    except NoCacheError:
        return None


def _kept(folder: Path) -> VideoFeatures | None:
    """A video's features from the cache; what is damaged is removed."""
    descriptor = open_entry(folder)
    if descriptor is None:
        return None
    try:
        features = FeatureStore(folder).video(_VID)
    except InputError as error:
        os.close(descriptor)
        logger.warning("%s; encoding the video again", error)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    hold(features, descriptor)
    return features


def encoder_of(
    checkpoint: str | Path,
    description: Description,
    device: torch.device,
    backbone: str | None,
    lazy: bool = False,
) -> VideoEncoder:
    """An encoder that gives a new video the features that a checkpoint was trained on.

    A backbone that only the checkpoint names is not fetched from a network; one that `backbone`
    names is.

    Args:
        lazy: load a backbone that only the checkpoint names when something new is to be encoded.

    Raises:
        InputError: nothing here does, or `backbone` is another one.
    """
    config = description.config
    data, layers = config.data, config.model.layers
    if data.features == "encode":
        name = backbone or data.backbone
        load = partial(_load_fitting, name, description, device, fetch=backbone is not None)
        fingerprint = description.features.get("fingerprint")
        if lazy and backbone is None and isinstance(fingerprint, str):
            loaded = LazyBackbone(name, fingerprint, layers, device, load)
        else:
            loaded = load()
        return VideoEncoder(loaded, data.clip_length, data.frames_per_clip)
    if data.features in PUBLISHED:
        return _published_encoder(checkpoint, config, device, backbone)
    if data.features != "sdst" or data.endpoints:
        raise InputError(
            f"checkpoint {checkpoint}: trained on feature files of others ({data.features}), which "
            "nothing here makes of a new video; train on videos (data.features encode) to ground "
            "videos"
        )
    if data.last_layer:
        raise InputError(
            f"checkpoint {checkpoint}: trained on the last layer alone (data.last_layer), which "
            "new videos are not encoded to; train with the layers to ground videos"
        )
    if backbone is None:
        raise InputError(
            f"checkpoint {checkpoint}: trained on SDST's published features; name the weights that "
            "made them, --backbone internvideo2:PATH"
        )
    if not backbone.startswith("internvideo2:"):
        raise InputError(
            f"--backbone {backbone}: checkpoint {checkpoint} was trained on InternVideo2's "
            "features; expected internvideo2:PATH"
        )
    loaded = load_internvideo2(backbone, layers, device)
    loaded.check_published()
    return VideoEncoder(loaded, data.clip_length, loaded.frames_at_once)


def _published_encoder(
    checkpoint: str | Path, config: Config, device: torch.device, backbone: str | None
) -> VideoEncoder:
    """As `encoder_of`, of a checkpoint trained on R2-Tuning's or Moment-DETR's features."""
    data = config.data
    if backbone is None:
        raise InputError(
            f"checkpoint {checkpoint}: trained on published features ({data.features}); name what "
            f"made them, --backbone {PUBLISHED[data.features]}"
        )
    loaded = load_published(backbone, data, config.model.layers, device)
    width = loaded.video_width + 2 * data.endpoints
    if (width, loaded.text_width) != (config.model.video_width, config.model.text_width):
        raise InputError(
            f"--backbone {backbone}: gives {width} numbers a token of video and "
            f"{loaded.text_width} of text, checkpoint {checkpoint} takes "
            f"{config.model.video_width} and {config.model.text_width}; "
            f"expected {PUBLISHED[data.features]}"
        )
    return VideoEncoder(loaded, data.clip_length, loaded.frames_at_once, data.endpoints)


def _load_fitting(
    name: str, description: Description, device: torch.device, fetch: bool
) -> Backbone:
    """The backbone `name`, which must give the features of the training."""
    config = description.config
    loaded = load_backbone(name, config.model.layers, device, fetch=fetch)
    _check_fit(loaded, config, description.features)
    return loaded


def _check_fit(backbone: Backbone, config: Config, features: dict) -> None:
    """Refuse a backbone whose features are not those of the training, whatever its name is."""
    sentences = ("text_width",) if config.data.sentences == "own" else ()
    for name in ("video_width", *sentences):
        width, expected = getattr(backbone, name), getattr(config.model, name)
        if width != expected:
            raise InputError(
                f"backbone {backbone.name}: {name} {width}, but the checkpoint was trained "
                f"on {expected}; it needs the backbone of its features"
            )
    trained = features.get("fingerprint")
    if backbone.fingerprint != trained:
        raise InputError(
            f"backbone {backbone.name}: its weights or preprocessing are not those the "
            f"checkpoint was trained with (fingerprint {backbone.fingerprint}, then "
            f"{trained}); it needs the backbone of its features"
        )
