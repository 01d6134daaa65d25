"""Answers as graphs: one for each bucket of queries, clips and words, those used last kept.

A question is a few thousand small operations, so on a GPU launching them takes longer than their
work. Queries are padded to a power of two, clips to a multiple of 16 and words of 8; what is padded
changes no answer. The first questions of a bucket are answered eagerly, one of them a second time
by the graph, which must give the same before it is used.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, fields, replace
from functools import partial
from threading import Lock

import torch
from torch import Tensor
from torch.nn import functional

from sdst.errors import one_line
from sdst.graphs import Capture, CudaCapture, Graph, buffer, fill
from sdst.model import SDST, EncodedVideo, Outputs

logger = logging.getLogger(__name__)

MOST_QUERIES = 256
CLIPS, WORDS = 16, 8  # multiples
GRAPHS_KEPT = 32
EAGER_CALLS = 1  # of a bucket, before its graph
CALLS_TO_WARM = EAGER_CALLS + 1  # after which it has one
MOST_BYTES = 2**28  # of a bucket's video; more take longer to compute than to launch
TOLERANCE = 1e-3


def make_capture(device: torch.device) -> Capture | None:
    """A maker of graphs of answers on `device`; None where they are computed eagerly."""
    return CudaCapture() if device.type == "cuda" else None


@dataclass
class _Bucket:
    """A graph and what it reads.

    Attributes:
        held: the video that `video` is a copy of.
    """

    video: EncodedVideo
    text: Tensor
    words: Tensor
    graph: Graph[Outputs]
    held: EncodedVideo


class AnswerGraphs:
    """`SDST.answer` of a model in inference, as graphs. Threads may share it.

    Args:
        capture: None answers eagerly.
    """

    def __init__(self, model: SDST, capture: Capture | None) -> None:
        self._model, self._capture = model, capture
        self._lock = Lock()
        self._seen: Counter[Hashable] = Counter()
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """Graphs that are kept."""
        return len(self._buckets)

    def answer(self, video: EncodedVideo, text: Tensor, words: Tensor) -> Outputs:
        """As `SDST.answer` without `every_step`: one video for all queries, or one for each.

        Args:
            text: [B, K, N, Dt].
            words: [B], valid part of N.
        """
        if self._capture is None or len(text) > MOST_QUERIES or _nbytes(video) > MOST_BYTES:
            return self._eager(video, text, words)
        queries, clips = len(text), video.clips
        sizes = _power_of_two(queries), self._padded_clips(clips), _up(text.shape[2], WORDS)
        with self._lock:
            outputs = self._of_bucket(sizes, video, *_pad_text(text, words, sizes[0], sizes[2]))
            return _cut(outputs, queries, clips)

    def _of_bucket(
        self, sizes: tuple[int, int, int], video: EncodedVideo, text: Tensor, words: Tensor
    ) -> Outputs:
        """Answers to padded queries; of a graph, in memory that its next call overwrites."""
        videos = 1 if len(video.lengths) == 1 else sizes[0]
        bf16 = torch.is_autocast_enabled(text.device.type)
        key = (*sizes, videos, text.dtype, bf16)
        if found := self._buckets.get(key):
            self._buckets.move_to_end(key)
            if found.held is not video:
                _fill(found.video, video.padded(videos, sizes[1], self._model.config.strides))
                found.held = video
            fill(found.text, text)
            fill(found.words, words)
            found.graph.replay()
            return found.graph.result
        self._seen[key] += 1
        padded = video.padded(videos, sizes[1], self._model.config.strides)
        outputs = self._eager(padded, text, words)
        if self._seen[key] > EAGER_CALLS:
            self._capture_bucket(key, video, padded, text, words, outputs)
        return outputs

    def _capture_bucket(
        self,
        key: Hashable,
        video: EncodedVideo,
        padded: EncodedVideo,
        text: Tensor,
        words: Tensor,
        expected: Outputs,
    ) -> None:
        """Keep a graph of these arguments' bucket if it answers them as `expected`."""
        assert self._capture is not None
        inputs = padded.each(buffer), buffer(text), buffer(words)
        try:
            graph = self._capture(partial(self._eager, *inputs))
            graph.replay()
        except Exception as error:
            self._capture = None
            logger.warning("answers are computed eagerly from here on (%s)", one_line(error))
            return
        if not _is_near(graph.result, expected):
            self._capture = None
            logger.warning("answers are computed eagerly from here on: a graph gives others")
            return
        self._buckets[key] = _Bucket(*inputs, graph, video)
        while len(self._buckets) > GRAPHS_KEPT:
            self._buckets.popitem(last=False)

    def _eager(self, video: EncodedVideo, text: Tensor, words: Tensor) -> Outputs:
        return self._model.answer(video, text, words, every_step=False)

    def _padded_clips(self, clips: int) -> int:
        """The bucket of a video's clips; padding must not bring it under a window."""
        padded, windowed = _up(clips, CLIPS), self._model.dense_block.needs_window
        return padded if windowed(padded) == windowed(clips) else clips


def _pad_text(text: Tensor, words: Tensor, queries: int, size: int) -> tuple[Tensor, Tensor]:
    """More queries, of one word of zeros, and more words."""
    more = queries - len(text)
    padding = (0, 0, 0, size - text.shape[2], 0, 0, 0, more)
    return functional.pad(text, padding), functional.pad(words, (0, more), value=1)


def _fill(video: EncodedVideo, values: EncodedVideo) -> None:
    for mine, theirs in zip(video.tensors(), values.tensors(), strict=True):
        fill(mine, theirs)


def _cut(outputs: Outputs, queries: int, clips: int) -> Outputs:
    """Copies of the answers to the real queries about the real clips."""
    cut = {}
    for field in fields(outputs):
        values = getattr(outputs, field.name)
        if isinstance(values, Tensor) and values.ndim:
            batch_first = field.name == "fit"
            values = values[:queries] if batch_first else values[:, :queries]
            if field.name in ("saliency", "dense", "visual"):
                values = values[:, :, :clips]
            values = buffer(values)
        cut[field.name] = values
    return replace(outputs, **cut)


def _is_near(found: Outputs, expected: Outputs) -> bool:
    """Whether moments, scores and saliency are the same."""
    pairs = ((getattr(x, name) for x in (found, expected)) for name in _ANSWER)
    return all(torch.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE) for a, b in pairs)


_ANSWER = ("spans", "scores", "saliency")


def _nbytes(video: EncodedVideo) -> int:
    return 0 if video.tokens is None else video.tokens.numel() * video.tokens.itemsize


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
