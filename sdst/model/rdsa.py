"""How moment queries read the dense stream: RDSA and the two baselines of its ablation [P]."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdst.kernels import deformable_attention
from sdst.model.config import ModelConfig
from sdst.model.layers import CrossAttentionLayers, NeighbourConv, length_mask
from sdst.model.shared import SharedLinear, SharedWeight


class DeformableReader(nn.Module):
    """Base of RDSA and deformable cross-attention: a few weighted samples around a reference.

        points  p = c + (q W_o + b_o) * w/2          (S per head; |offset| > 1 looks outside)
        scores  A = softmax_S(q W_a + b_a)
        out       = W_out sum_s A_s V(p_s)

    with V linearly interpolated over time. W_o = W_a = 0 at the start, and b_o spreads over heads
    and points  [D: TadTR].
    """

    def __init__(self, config: ModelConfig, query_width: int) -> None:
        super().__init__()
        width, heads, points = config.width, config.heads, config.points
        self.heads, self.points = heads, points
        self.offsets = nn.Linear(query_width, heads * points)
        self.scores = nn.Linear(query_width, heads * points)
        self.value = SharedLinear(width, width)
        self.out = SharedLinear(width, width)
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Heads look left and right in turn, points ever further out, up to the ends."""
        for linear in (self.offsets, self.scores):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        side = torch.tensor([-1.0, 1.0]).repeat(math.ceil(self.heads / 2))[: self.heads, None]
        distance = (torch.arange(self.points) + 0.5) / self.points
        with torch.no_grad():
            self.offsets.bias.copy_((side * distance).flatten())

    def steering(self) -> Iterator[nn.Parameter]:
        """Parameters that decide where to sample, which learn more slowly than the rest."""
        yield from self.offsets.parameters()

    def read(
        self, offsets: Tensor, scores: Tensor, references: Tensor, source: Tensor, lengths: Tensor
    ) -> Tensor:
        """Sample the stream around the references.

        Args:
            offsets, scores: [B, M, heads * points].
            references: [B, M, 2], (center, width) in units of the video.
            source: [B, L, F].
            lengths: [B], valid part of L.

        Returns:
            [B, M, F].
        """
        offsets, logits = (x.unflatten(-1, (self.heads, -1)) for x in (offsets, scores))
        values = self.value(source).unflatten(-1, (self.heads, -1))
        read = deformable_attention(values, references, offsets, logits, lengths)
        return self.out(read.flatten(2))


class RDSA(SharedWeight, DeformableReader):
    """Reference-based deformable self-attention, the heart of the paper [P].

    Offsets and scores come from the video at the reference's left end, centre and right end, not
    from the query embedding H, which knows nothing of the key space:

        X = CNN(D),   q = [X(l), X(c), X(r)] W_Q,   read q at the reference from X
    """

    def __init__(self, config: ModelConfig) -> None:
        width = config.width
        # The query stays 3F wide [D]: with it, F = 256 gives the paper's 4.1 M parameters.
        super().__init__(config, 3 * width)
        self.conv = NeighbourConv(width)  # [D]
        self.query = nn.Linear(3 * width, 3 * width)

    def forward(
        self, hidden: Tensor, position: Tensor, references: Tensor, dense: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """hidden and position [B, M, F] are not read: the video alone decides [P].

        Returns:
            What was read [B, M, F], and the offsets at which, [B, M, heads * points].
        """
        real = length_mask(lengths, dense.shape[1])[..., None]
        source = self.conv(dense * real)
        ends = gather_ends(source, references, lengths)
        offsets, scores = self.multiply(ends).chunk(2, -1)
        return self.read(offsets, scores, references, source, lengths), offsets

    def steering(self) -> Iterator[nn.Parameter]:
        """As `DeformableReader.steering`; W_Q feeds offsets and scores alone."""
        yield from super().steering()
        yield from self.query.parameters()

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of offsets and scores on the ends: nothing else reads q."""
        weight = torch.cat((self.offsets.weight, self.scores.weight))
        return self.through_query(weight, torch.cat((self.offsets.bias, self.scores.bias)))

    def through_query(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Weight [N, 3F] and bias [N] on q, as those on the ends that q is made of."""
        return weight @ self.query.weight, functional.linear(self.query.bias, weight, bias)


class DeformableCrossAttention(DeformableReader):
    """Baseline: H decides where to look, and values come straight from D [P]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config, config.width)

    def forward(
        self, hidden: Tensor, position: Tensor, references: Tensor, dense: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `RDSA.forward`; what H knows decides, with its position."""
        hidden = hidden + position
        offsets = self.offsets(hidden)
        return self.read(offsets, self.scores(hidden), references, dense, lengths), offsets


class StandardCrossAttention(CrossAttentionLayers):
    """Baseline: every query attends to every clip [P]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.width, config.heads)

    def forward(
        self, hidden: Tensor, position: Tensor, references: Tensor, dense: Tensor, lengths: Tensor
    ) -> tuple[Tensor, None]:
        """As `RDSA.forward`, without offsets."""
        return self.attend(hidden + position, self.keys_values(dense), lengths), None


READERS = {
    "rdsa": RDSA,
    "deformable": DeformableCrossAttention,
    "cross": StandardCrossAttention,
}


def gather_ends(source: Tensor, references: Tensor, lengths: Tensor) -> Tensor:
    """Sample the stream at each reference's left end, centre and right end.

    Args:
        source: [B, L, F].
        references: [B, M, 2], (center, width) in units of the video.
        lengths: [B], valid part of L.

    Returns:
        [B, M, 3F].
    """
    sides = torch.arange(-0.5, 1.0, 0.5, device=references.device)
    center, width = references.split(1, -1)
    ends = torch.addcmul(center, width, sides).clamp(0.0, 1.0)  # [B, M, 3]
    # One sample in the middle of references without width: its weight is 1.
    points = functional.pad(ends.flatten(1)[..., None], (0, 1))
    zeros = points.new_zeros(*points.shape[:2], 1, 1)
    sampled = deformable_attention(source[:, :, None], points, zeros, zeros, lengths)
    return sampled.view(*references.shape[:2], -1)
