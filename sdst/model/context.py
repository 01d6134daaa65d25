"""Sparse context: the side-tuner asks the frozen backbone's own tokens [S].

At every step the tokens of the frozen store are scored against the sentence in one pass, the best
are kept under a quota per temporal resolution and segment, and the moment queries attend to them
where they lie. The frozen tokens get no gradient and are never projected: keys are absorbed into
the queries (q_h W_k,h x = <q_h W_k,h, x>) and values are projected after the weighted sum.

Tokens are expected layer-normalised, as the feature store holds them, so that scores start at unit
scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdst.kernels import gathered_attention, pool_tokens, pyramid, select_tokens
from sdst.kernels.select_tokens.reference import (
    INDEX_BITS,
    NOTHING,
    key_index,
    ordered_bits,
    split,
)
from sdst.model.config import ModelConfig

ALL_BITS = (1 << INDEX_BITS) - 1


@dataclass
class SelectedTokens:
    """Frozen tokens picked by index for one step.

    Attributes:
        tokens: [B, L, P, Dv], the frozen store's tokens of this layer.
        indices: [B, k], into the temporal pyramid of `tokens` (see `select_tokens`).
        scores: [B, k], <x, u>, best first.
        valid: [B, k], False where there was nothing left to pick.
        lengths: [B], valid part of L.
        scales: [B, L, P], what tokens of int8 are multiplied by; None of others.
    """

    tokens: Tensor
    indices: Tensor
    scores: Tensor
    valid: Tensor
    lengths: Tensor
    scales: Tensor | None = None

    @classmethod
    def of(cls, tokens: Tensor, scores: Tensor, valid: Tensor) -> SelectedTokens:
        """Tokens [B, k, Dv] that were copied out of a store, with their scores and validity."""
        batch, count, _ = tokens.shape
        indices = torch.arange(count, device=tokens.device).repeat(batch, 1)
        lengths = torch.full((batch,), count, device=tokens.device)
        return cls(tokens[:, :, None], indices, scores, valid, lengths)

    @property
    def bias(self) -> Tensor:
        """[B, k], log sigmoid(score), added to the attention logits."""
        return functional.logsigmoid(self.scores)

    def joined(self, other: SelectedTokens, strides: Sequence[int]) -> SelectedTokens:
        """These and another sample's, `other` of B = 1. The picked are copied, not the store."""
        own = pyramid.gather(
            self.tokens, self.indices, self.valid, self.lengths, strides, self.scales
        )
        pairs = (
            (own, other.tokens[:, :, 0]),
            (self.scores, other.scores),
            (self.valid, other.valid),
        )
        return SelectedTokens.of(
            *(torch.cat((a, b.expand(len(a), *b.shape[1:])), 1) for a, b in pairs)
        )


def log_fit(contexts: Sequence[SelectedTokens]) -> Tensor:
    """[B], how well the sentence fits what was selected: log mean exp(score), over the steps."""
    scores = torch.stack([context.scores for context in contexts])
    valid = torch.stack([context.valid for context in contexts])
    total = scores.masked_fill(~valid, -torch.inf).logsumexp(2)
    return (total - valid.sum(2).log()).mean(0)


class TokenSelection(nn.Module):
    """score(x) = <x, u> with u = W_s^T W_q t, t the pooled sentence; the top k are kept [S]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.video_width, bias=False)  # W_s^T
        # Tokens have norm sqrt(Dv), so scores start at about unit scale.
        nn.init.normal_(self.key.weight, std=1 / math.sqrt(config.video_width * config.width))

    def direction(self, sentence: Tensor) -> Tensor:
        """Pooled sentences [..., F] -> u [..., Dv], what tokens are scored against."""
        return self.key(self.query(sentence))

    def select(
        self, tokens: Tensor, u: Tensor, lengths: Tensor, scales: Tensor | None = None
    ) -> list[SelectedTokens]:
        """Keep the k best of every step's pyramid.

        Args:
            tokens: [K, B, L, P, Dv].
            u: [K, B, Dv].
            lengths: [B], valid part of L.
            scales: [K, B, L, P] of tokens of int8.
        """
        config = self.config

        def select(
            tokens: Tensor, u: Tensor, lengths: Tensor, scales: Tensor | None
        ) -> tuple[Tensor, ...]:
            return select_tokens(
                tokens,
                u,
                config.context_tokens,
                lengths,
                strides=config.context_strides,
                segments=config.context_segments,
                scales=scales,
            )

        indices, scores, valid = _over_steps(select, tokens, u, lengths, scales)
        by_step = [None] * len(tokens) if scales is None else scales
        steps = zip(tokens, indices, scores, valid, by_step, strict=True)
        return [SelectedTokens(*step, lengths, scale) for *step, scale in steps]

    def pool_clips(
        self, tokens: Tensor, u: Tensor, lengths: Tensor, scales: Tensor | None = None
    ) -> Tensor:
        """A clip's dense input: attention over its best tokens under the sentence [S].

        Args:
            tokens: [K, B, L, P, Dv].
            u: [K, B, Dv].
            lengths: [B], valid part of L.
            scales: [K, B, L, P] of tokens of int8.

        Returns:
            [K, B, L, Dv], 0 beyond the lengths.
        """
        kept = self.config.pooled_tokens

        def pool(
            tokens: Tensor, u: Tensor, lengths: Tensor, scales: Tensor | None
        ) -> tuple[Tensor, ...]:
            return (pool_tokens(tokens, u, kept, lengths, scales=scales),)

        [pooled] = _over_steps(pool, tokens, u, lengths, scales)
        return pooled


def _over_steps(
    op: Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, ...]],
    tokens: Tensor,
    u: Tensor,
    lengths: Tensor,
    scales: Tensor | None,
) -> list[Tensor]:
    """What `op` gives for tokens [K, B, ...], u [K, B, Dv], lengths [B] and scales [K, B, ...].

    All steps go in one call where their samples lie evenly apart in memory. Where one video serves
    many queries, or one layer all steps, they do not, and joining them would copy the store.
    """
    steps, batch = tokens.shape[:2]
    if min(steps, batch) <= 1 or tokens.stride(0) == batch * tokens.stride(1):
        together = None if scales is None else scales.flatten(0, 1)
        results = op(tokens.flatten(0, 1), u.flatten(0, 1), lengths.repeat(steps), together)
        return [x.unflatten(0, (steps, batch)) for x in results]
    by_step = [None] * steps if scales is None else scales
    results = [op(x, y, lengths, scale) for x, y, scale in zip(tokens, u, by_step, strict=True)]
    return [torch.stack(x) for x in zip(*results, strict=True)]


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
        """What is kept at every step, of one sample each."""
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


class TokenAttention(nn.Module):
    """Cross-attention of the moment queries to the selected frozen tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, self.head_width = config.heads, config.width // config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Parameter(torch.empty(self.heads, self.head_width, config.video_width))
        self.value = nn.Parameter(torch.empty(self.heads, config.video_width, self.head_width))
        self.out = nn.Linear(config.width, config.width)
        for weight in (self.key, self.value):
            nn.init.normal_(weight, std=1 / math.sqrt(config.video_width))

    def forward(self, hidden: Tensor, context: SelectedTokens) -> Tensor:
        """hidden [B, M, F] -> [B, M, F]."""
        query = self.query(hidden).unflatten(-1, (self.heads, self.head_width))
        absorbed = torch.einsum("bmhc,hcd->bmhd", query, self.key)
        attended = gathered_attention(
            absorbed,
            context.tokens,
            context.indices,
            context.bias,
            context.valid,
            context.lengths,
            strides=self.config.context_strides,
            scale=1 / math.sqrt(self.head_width),
            scales=context.scales,
        )
        return self.out(torch.einsum("bmhd,hdc->bmhc", attended, self.value).flatten(2))
