"""Selecting tokens from a video that is too long to be read at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from sdst.kernels import pyramid, select_tokens
from sdst.kernels.select_tokens.reference import (
    INDEX_BITS,
    NOTHING,
    key_index,
    ordered_bits,
    split,
)
from sdst.model.config import ModelConfig
from sdst.model.context import SelectedTokens

ALL_BITS = (1 << INDEX_BITS) - 1


class RunningSelection:
    """`select_tokens` on a video that is read in parts: the same tokens, in bounded memory.

    Held are the best of every group that has a quota (a resolution within a segment of time) and
    the k best of the others, to which falls what a group cannot fill. Whatever follows, no other
    token can be among the k kept at the end.

    Args:
        config: says how many tokens are kept, and how they are spread.
        u: [K, Dv], what the tokens of every step are scored against.
        length: clips of the video.
        per_clip: tokens of a clip, P.
    """

    def __init__(self, config: ModelConfig, u: Tensor, length: int, per_clip: int) -> None:
        self.u, self.length, self.per_clip = u, length, per_clip
        self.k, self.strides = config.context_tokens, config.context_strides
        self.segments = config.context_segments
        quotas = [split(quota, self.segments) for quota in split(self.k, len(self.strides))]
        self.quotas = torch.tensor(quotas, device=u.device).flatten()
        held = len(u), 2 * self.k
        self.keys = torch.full(held, NOTHING, device=u.device)  # best first
        self.scores, self.tokens = u.new_zeros(held), u.new_zeros(*held, u.shape[1])

    @property
    def borders(self) -> list[int]:
        """The clips that a segment of time begins with, but the first."""
        return [-(-self.length * i // self.segments) for i in range(1, self.segments)]

    def parts(self, clips: int) -> Iterator[tuple[int, int]]:
        """How to read the video: first and last (not included) clips of parts of about `clips`.

        No window of the pyramid is cut, and those about a border are a part of their own.
        """
        window = math.lcm(*self.strides)
        down = [border // window * window for border in self.borders]
        up = [min(-(-border // window) * window, self.length) for border in self.borders]
        size = max(clips // window, 1) * window
        for first, last in pairwise(sorted({0, *down, *up, self.length})):
            for start in range(first, last, size):
                yield start, min(start + size, last)

    def add(self, first: int, tokens: Tensor, scales: Tensor | None = None) -> None:
        """Take in one of `parts`, which begins at the clip `first`.

        Args:
            tokens: [K, l, P, Dv].
            scales: [K, l, P] of tokens of int8.
        """
        clips, held = tokens.shape[1], self.keys.shape[1]
        # A part is of one group per resolution, of which the k best suffice, but at a border.
        mixed = any(first < border < first + clips for border in self.borders)
        entries = self.per_clip * sum(pyramid.steps(clips, self.strides))
        count = entries if mixed else min(self.k * len(self.strides), entries)
        indices, scores, _ = select_tokens(
            tokens, self.u, count, strides=self.strides, segments=1, scales=scales
        )
        keys = ordered_bits(scores) << INDEX_BITS | ALL_BITS - self._in_whole(indices, first, clips)
        keys, order = torch.cat((self.keys, keys), 1).sort(descending=True)
        keys = torch.where(self._kept(keys, self.k), keys, NOTHING)
        keys, again = keys.sort(descending=True, stable=True)
        self.keys, order = keys[:, :held], order.gather(1, again[:, :held])
        self.scores = torch.cat((self.scores, scores), 1).gather(1, order)

        new = order >= held
        local = indices.gather(1, (order - held).clamp(min=0))
        lengths = torch.full_like(order[:, 0], clips)
        taken = pyramid.gather(tokens, local, new, lengths, self.strides, scales)
        rows = order.clamp(max=held - 1)[..., None].expand_as(self.tokens)
        self.tokens = torch.where(new[..., None], taken, self.tokens.gather(1, rows))

    def selected(self) -> list[SelectedTokens]:
        """The tokens kept at every step, of one sample each."""
        quota = self._kept(self.keys, 0).sum(1, keepdim=True)
        keys = torch.where(self._kept(self.keys, self.k - quota), self.keys, NOTHING)
        keys, order = (x[:, : self.k] for x in keys.sort(descending=True, stable=True))
        valid = keys != NOTHING
        scores = self.scores.gather(1, order)
        tokens = self.tokens.gather(1, order[..., None].expand(-1, -1, self.tokens.shape[2]))
        steps = zip(tokens, scores, valid, strict=True)
        return [SelectedTokens.of(*(x[None] for x in step)) for step in steps]

    def _in_whole(self, indices: Tensor, first: int, clips: int) -> Tensor:
        """Indices into the pyramid of the whole video, of those into that of a part."""
        level, rest = self._level(indices, clips)
        starts = self._starts(self.length, indices)[level]
        stride = torch.tensor(self.strides, device=indices.device)[level]
        return starts + first // stride * self.per_clip + rest

    def _kept(self, keys: Tensor, spare: Tensor | int) -> Tensor:
        """Of keys [K, n], best first: which fill a quota or are the `spare` best of the others."""
        level, rest = self._level(key_index(keys), self.length)
        stride = torch.tensor(self.strides, device=keys.device)[level]
        segment = rest // self.per_clip * stride * self.segments // self.length
        group = torch.where(keys == NOTHING, -1, level * self.segments + segment)
        member = group[..., None] == torch.arange(len(self.quotas), device=keys.device)
        quota = (member & (member.cumsum(1) <= self.quotas)).any(-1)
        others = (group >= 0) & ~quota
        return quota | others & (others.cumsum(1) <= spare)

    def _level(self, indices: Tensor, clips: int) -> tuple[Tensor, Tensor]:
        """Levels of entries of the pyramid over `clips`, and their indices within."""
        starts = self._starts(clips, indices)
        level = torch.bucketize(indices, starts[1:], right=True)
        return level, indices - starts[level]

    def _starts(self, clips: int, like: Tensor) -> Tensor:
        """The first index of every level of the pyramid over `clips`."""
        steps = torch.tensor([0, *pyramid.steps(clips, self.strides)[:-1]], device=like.device)
        return steps.cumsum(0) * self.per_clip
