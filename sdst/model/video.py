"""Inputs of the side-tuner that depend on the video alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from sdst.model.dense import average_stride
from sdst.model.layers import sine_encoding


class DenseInput(NamedTuple):
    """Input of the dense stream at one step.

    Attributes:
        source: [V, l, F], projected visual features, averaged over the step's stride.
        time: [l, F], code of when that is.
        lengths: [V], valid part of l.
        stride: of the step, in clips.
    """

    source: Tensor
    time: Tensor
    lengths: Tensor
    stride: int


@dataclass
class EncodedVideo:
    """V videos as `SDST.encode_video` leaves them: made once, to answer any number of queries.

    Attributes:
        lengths: [V], valid clips of L.
        tokens: [K, V, L, P, Dv], a view of the frozen tokens; None where nothing reads them again.
        scales: [K, V, L, P], what tokens of int8 are multiplied by; None of others.
        visual: [K, V, L, F], projected; None where a clip's dense input depends on the sentence
            (`context: sparse` with several tokens a clip).
        steps: the K dense inputs made from `visual`; None with it.
    """

    lengths: Tensor
    tokens: Tensor | None
    scales: Tensor | None
    visual: Tensor | None
    steps: list[DenseInput] | None

    @property
    def clips(self) -> int:
        """L."""
        features = self.tokens if self.visual is None else self.visual
        assert features is not None  # one of them is kept
        return features.shape[2]

    def tensors(self) -> list[Tensor]:
        """All that differ from video to video, in a fixed order."""
        parts = self.lengths, self.tokens, self.scales, self.visual
        steps = [part for step in self.steps or () for part in (step.source, step.lengths)]
        return [part for part in parts if part is not None] + steps

    def each(self, change: Callable[[Tensor], Tensor]) -> EncodedVideo:
        """With `change` applied to all `tensors`."""

        def changed(part: Tensor | None) -> Tensor | None:
            return None if part is None else change(part)

        steps = self.steps and [
            step._replace(source=change(step.source), lengths=change(step.lengths))
            for step in self.steps
        ]
        tokens, scales, visual = map(changed, (self.tokens, self.scales, self.visual))
        return EncodedVideo(change(self.lengths), tokens, scales, visual, steps)

    def padded(self, videos: int, clips: int, strides: Sequence[int]) -> EncodedVideo:
        """With so many videos and clips, of which those beyond the own ones change no answer.

        Args:
            strides: of the steps.
        """
        more_videos, more_clips = videos - len(self.lengths), clips - self.clips
        if not more_videos and not more_clips:
            return self

        def pad(x: Tensor | None) -> Tensor | None:
            if x is None:
                return None
            layers = x[:1] if x.stride(0) == 0 else x  # one serves all steps
            padding = (0, 0) * (x.ndim - 3) + (0, more_clips, 0, more_videos)
            return functional.pad(layers, padding).expand(len(x), *(-1,) * (x.ndim - 1))

        lengths = functional.pad(self.lengths, (0, more_videos), value=1)
        visual = pad(self.visual)
        steps = None if visual is None else dense_inputs(visual, lengths, strides)
        return EncodedVideo(lengths, pad(self.tokens), pad(self.scales), visual, steps)

    def for_queries(self, count: int, videos: Tensor | None = None) -> EncodedVideo:
        """One video for each of `count` queries.

        Args:
            videos: [count], the index of each query's video. Without it, every query has a video of
                its own, or all share the only one; then nothing is copied.

        Raises:
            ValueError: neither is the case.
        """
        own = self.lengths.shape[0]
        if videos is None and own == count:
            return self
        if videos is None and own != 1:
            raise ValueError(
                f"{count} queries on {own} videos; expected as many queries as videos, one video, "
                "or `videos`, the index of each query's video"
            )

        def pick(x: Tensor, dim: int) -> Tensor:
            if videos is not None:
                return x.index_select(dim, videos)
            return x.expand(*x.shape[:dim], count, *x.shape[dim + 1 :])

        def pick_by_step(x: Tensor | None) -> Tensor | None:
            return None if x is None else pick(x, 1)

        steps = self.steps and [
            DenseInput(pick(step.source, 0), step.time, pick(step.lengths, 0), step.stride)
            for step in self.steps
        ]
        return EncodedVideo(
            pick(self.lengths, 0),
            pick_by_step(self.tokens),
            pick_by_step(self.scales),
            pick_by_step(self.visual),
            steps,
        )


def _time(steps: int, stride: int, width: int, device: torch.device) -> Tensor:
    """[steps, width], the code of the middle of every window of `stride` clips."""
    return sine_encoding((torch.arange(steps, device=device) + 0.5) * stride, width)


def dense_inputs(visual: Tensor, lengths: Tensor, strides: Sequence[int]) -> list[DenseInput]:
    """Input of each step's dense stream, from visual [K, V, L, F] and lengths [V]."""
    clips, width = visual.shape[2:]
    time = {
        stride: _time(-(-clips // stride), stride, width, visual.device).to(visual.dtype)
        for stride in set(strides)
    }
    inputs = []
    for features, stride in zip(visual, strides, strict=True):
        source, valid = average_stride(features, lengths, stride)
        inputs.append(DenseInput(source, time[stride], valid, stride))
    return inputs
