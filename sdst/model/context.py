"""Sparse context: the side-tuner asks the frozen backbone's own tokens [S].

At every step the tokens of the frozen store are scored against the sentence in one pass, the best
are kept under a quota per temporal resolution and segment, and the moment queries attend to them
in place. The frozen tokens get no gradient and are never projected: keys are absorbed into
the queries (q_h W_k,h x = <q_h W_k,h, x>) and values are projected after the weighted sum.

Tokens are expected layer-normalised, as the feature store holds them, so that scores start at unit
scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdst.kernels import gathered_attention, pool_tokens, pyramid, select_tokens
from sdst.kernels.exporting import is_exporting
from sdst.model.config import ModelConfig
from sdst.model.shared import SharedLinear


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
        """Pooled sentences [..., F] -> u [..., Dv], what tokens are scored against.

        In fp32 under autocast, too: what is selected hangs on it.
        """
        with torch.autocast(sentence.device.type, enabled=False):
            return self.key(self.query(sentence.to(self.query.weight.dtype)))

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
        return [SelectedTokens(x, i, s, v, lengths, scale) for x, i, s, v, scale in steps]

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
    """Results of `op` for tokens [K, B, ...], u [K, B, Dv], lengths [B] and scales [K, B, ...].

    All steps go in one call where their samples lie evenly apart in memory. Where one video serves
    many queries, or one layer all steps, they do not, and joining them would copy the store.
    """
    steps, batch = tokens.shape[:2]
    # The sizes of an exported program are not known.
    if not is_exporting() and (
        min(steps, batch) <= 1 or tokens.stride(0) == batch * tokens.stride(1)
    ):
        together = None if scales is None else scales.flatten(0, 1)
        results = op(tokens.flatten(0, 1), u.flatten(0, 1), lengths.repeat(steps), together)
        return [x.unflatten(0, (steps, batch)) for x in results]
    by_step = [None] * steps if scales is None else scales
    results = [op(x, y, lengths, scale) for x, y, scale in zip(tokens, u, by_step, strict=True)]
    return [torch.stack(x) for x in zip(*results, strict=True)]


class TokenAttention(nn.Module):
    """Cross-attention of the moment queries to the selected frozen tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.heads, self.head_width = config.heads, config.width // config.heads
        self.query = SharedLinear(config.width, config.width)
        self.key = nn.Parameter(torch.empty(self.heads, self.head_width, config.video_width))
        self.value = nn.Parameter(torch.empty(self.heads, config.video_width, self.head_width))
        self.out = SharedLinear(config.width, config.width)
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
