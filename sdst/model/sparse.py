"""The sparse stream: moment queries, each a reference (center, width) and an embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdst.kernels import mark_saliency
from sdst.model.config import ModelConfig
from sdst.model.context import SelectedTokens, TokenAttention
from sdst.model.layers import (
    MLP,
    CrossAttention,
    FeedForward,
    Residual,
    SelfAttention,
    sine_code,
    sine_frequencies,
)
from sdst.model.rdsa import READERS

# A reference is coded at this many positions per video, about the clips of a QVHighlights video.
REFERENCE_RESOLUTION = 100


class SparseBlock(nn.Module):
    """H <- FFN(RDSA(R, SA(CA(H, T)), D))  [P].

    Under `context: sparse` the queries also attend to selected frozen tokens, between SA and RDSA:
    global context first, the refined dense stream after [S]. Queries carry a code of their
    reference as position [D: DAB-DETR].
    """

    frequencies: Tensor  # of the sine code

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.position = MLP(2 * width, width, width)
        self.register_buffer("frequencies", sine_frequencies(width), persistent=False)
        self.text_attention = CrossAttention(width, heads)
        self.self_attention = SelfAttention(width, heads) if config.query_attention else None
        self.context_attention = TokenAttention(config) if config.context == "sparse" else None
        self.reader = READERS[config.attention](config)
        self.feed_forward = FeedForward(width)
        off = {"self": self.self_attention is None, "context": self.context_attention is None}
        self.residuals = nn.ModuleDict(
            {
                name: Residual(width, config.dropout, config.drop_path)
                for name in ("text", "self", "context", "reader", "feed_forward")
                if not off.get(name, False)
            }
        )

    def forward(
        self,
        hidden: Tensor,
        references: Tensor,
        dense: Tensor,
        lengths: Tensor,
        keys_values: tuple[Tensor, Tensor],
        text_lengths: Tensor,
        context: SelectedTokens | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Refine the query embeddings once.

        Args:
            hidden: [B, M, F].
            references: [B, M, 2], (center, width) in units of the video.
            dense: [B, L, F], this step's dense stream.
            lengths: [B], valid part of L.
            keys_values: the sentence as `text_attention.keys_values` gives it, [B, N, H, F/H] each.
            text_lengths: [B], valid part of N.
            context: the frozen tokens selected for this step, under `context: sparse`.

        Returns:
            [B, M, F], and the reader's offsets [B, M, heads * points], None where it has none.
        """
        code = sine_code(references * REFERENCE_RESOLUTION, self.frequencies)
        position = self.position(code.flatten(2).to(hidden.dtype))
        text, residuals = self.text_attention, self.residuals
        hidden = residuals["text"](hidden, text(hidden + position, keys_values, text_lengths))
        if self.self_attention is not None:
            hidden = residuals["self"](hidden, self.self_attention(hidden, position))
        if self.context_attention is not None:
            branch = self.context_attention(hidden + position, context)
            hidden = residuals["context"](hidden, branch)
        branch, offsets = self.reader(hidden, position, references, dense, lengths)
        hidden = residuals["reader"](hidden, branch)
        return residuals["feed_forward"](hidden, self.feed_forward(hidden)), offsets


class SaliencyMark(nn.Module):
    """D + z c, what the moment queries read under `reads: saliency`  [D, ours].

    z is this step's saliency, standardised over the valid clips and detached, so that saliency is
    learned from its own losses alone. c is one learned vector, all ones at the start: D is a layer
    norm's output, whose mean over the channels is 0, so nothing of D's own is in this direction.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.ones(width))  # c

    def forward(self, dense: Tensor, sentence: Tensor, lengths: Tensor) -> Tensor:
        """Mark the clips that match.

        Args:
            dense: [B, L, F], this step's dense stream.
            sentence: [B, F], this step's pooled sentences.
            lengths: [B], valid part of L.

        Returns:
            [B, L, F].
        """
        return mark_saliency(dense, sentence, self.direction, lengths)


class MomentQueries(nn.Module):
    """H^0 learned, R^0 = sigmoid(learned), spread over time [D]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(config.queries, config.width).normal_(std=0.02))
        self.reference_logits = nn.Parameter(spread_references(config.queries).logit())

    def forward(self, batch: int) -> tuple[Tensor, Tensor]:
        """Embeddings [B, M, F] and references [B, M, 2] before the first step."""
        return (
            self.embedding.expand(batch, -1, -1),
            self.reference_logits.sigmoid().expand(batch, -1, -1),
        )


def spread_references(count: int) -> Tensor:
    """[count, 2] references: centres evenly over the video, widths in turn short, middle, long."""
    center = (torch.arange(count) + 0.5) / count
    width = torch.tensor([0.1, 0.25, 0.5]).repeat(-(-count // 3))[:count]
    return torch.stack((center, width), dim=-1)
