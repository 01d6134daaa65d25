"""The disk cache of encoded sentences, beside that of encoded videos (`sdst.grounding.cache`).

A question that was asked before is then answered without its backbone, whose libraries alone take
a command longer to import than the answer takes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from sdst.backbones import Backbone, FrameFeatures, TextFeatures
from sdst.errors import InputError
from sdst.files.cache_folder import NoCacheError
from sdst.files.publish import publish, scratch_folder
from sdst.files.sealed import load_tensors, save_tensors
from sdst.grounding.cache import SENTENCE_FILE, grounding_cache, limit, open_entry, trim
from sdst.grounding.recent import Recent

logger = logging.getLogger(__name__)

# Of one call: beside the encoding of more, importing the libraries takes no time.
SENTENCES_KEPT = 64
_Sentence: TypeAlias = tuple[TextFeatures, str]  # with its end that is not read


class LazyBackbone:
    """A backbone that is loaded for the first thing which was not encoded before.

    Its sentences are kept on disk; videos are by `VideoEncoder`. Threads may share it.

    Args:
        name: of the backbone.
        fingerprint: of its features.
        layers: K.
        device: that `load` puts it on.
        load: gives the backbone of that fingerprint.
    """

    image_size: tuple[int, int]  # these, of the backbone that is loaded
    frames_at_once: int
    tokens_per_frame: int
    video_width: int
    text_width: int
    embed_width: int
    preprocessing: dict

    def __init__(
        self,
        name: str,
        fingerprint: str,
        layers: int,
        device: torch.device,
        load: Callable[[], Backbone],
    ) -> None:
        self.name, self.fingerprint, self.layers, self.device = name, fingerprint, layers, device
        self._load = load
        self._loaded: Recent[str, Backbone] = Recent(1)
        self._last: Mapping[str, _Sentence] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # of no backbone; `copy` asks before there are attributes
            raise AttributeError(name)
        return getattr(self._backbone(), name)

    def encode_frames(self, frames: np.ndarray) -> FrameFeatures:
        return self._backbone().encode_frames(frames)

    def encode_text(self, texts: Sequence[str]) -> list[TextFeatures]:
        found = self._known(texts)
        if new := [text for text in dict.fromkeys(texts) if text not in found]:
            backbone = self._backbone()
            pairs = zip(backbone.encode_text(new), backbone.unread(new), strict=True)
            made = dict(zip(new, pairs, strict=True))
            self._keep(made)
            found |= made
        self._last = found
        return [found[text][0] for text in texts]

    def unread(self, texts: Sequence[str]) -> list[str]:
        ends = {text: end for text, (_, end) in self._known(texts).items()}
        if new := [text for text in dict.fromkeys(texts) if text not in ends]:
            ends.update(zip(new, self._backbone().unread(new), strict=True))
        return [ends[text] for text in texts]

    def release_text(self) -> None:
        self._backbone().release_text()

    def _backbone(self) -> Backbone:
        return self._loaded.get(self.name, self._load)

    def _known(self, texts: Sequence[str]) -> dict[str, _Sentence]:
        """Those sentences that were encoded by the last call, or are on disk."""
        distinct, last = dict.fromkeys(texts), self._last
        found = {text: last[text] for text in distinct if text in last}
        if len(distinct) <= SENTENCES_KEPT:
            kept = {text: self._kept(text) for text in distinct if text not in found}
            found |= {text: sentence for text, sentence in kept.items() if sentence}
        return found

    def _place(self, text: str) -> Path:
        identity = ["sentence", self.fingerprint, text]
        return grounding_cache() / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]

    def _kept(self, text: str) -> _Sentence | None:
        """A sentence from the cache; what is damaged is removed."""
        try:
            folder = self._place(text)
        except NoCacheError:
            return None
        if (descriptor := open_entry(folder)) is None:
            return None
        try:
            tensors, metadata = load_tensors(folder / SENTENCE_FILE, "encoding it again")
        except InputError as error:
            logger.warning(error)
            shutil.rmtree(folder, ignore_errors=True)
            return None
        finally:
            os.close(descriptor)
        tokens, embedding = (tensors[name].to(self.device) for name in ("tokens", "embedding"))
        return TextFeatures(tokens, embedding), metadata["unread"]

    def _keep(self, sentences: Mapping[str, _Sentence]) -> None:
        """Write sentences into the cache, where they are few and it can be written."""
        most = limit()
        if len(sentences) > SENTENCES_KEPT:
            return
        with suppress(NoCacheError, InputError, OSError):
            for text, (features, unread) in sentences.items():
                _write(self._place(text), features, unread)
            trim(grounding_cache(), most)


def _write(folder: Path, features: TextFeatures, unread: str) -> None:
    tensors = {"tokens": features.tokens, "embedding": features.embedding}
    with scratch_folder(folder) as building:
        save_tensors(building / SENTENCE_FILE, tensors, unread=unread)
        with suppress(OSError):  # another process was faster
            publish(building, folder)
