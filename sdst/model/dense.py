"""The dense stream: one feature per clip, refined against the sentence and over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdst.model.config import ModelConfig
from sdst.model.layers import (
    CrossAttention,
    FeedForward,
    Residual,
    SelfAttention,
    sine_encoding,
    take_rows,
)


class DenseBlock(nn.Module):
    """D <- FFN(SA(CA(D, T)))  [P]; post-norm, sinusoidal time on query and key [D: R2-Tuning].

    The self-attention over time is the dense refinement [S]: it runs through `dense_attention`,
    that is, FlashAttention where the machine has it.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, heads = config.width, config.heads
        self.window, self.global_tokens = config.window, config.global_tokens
        self.text_attention = CrossAttention(width, heads)
        self.time_attention = SelfAttention(width, heads)
        look_around(self.time_attention)
        self.feed_forward = FeedForward(width)
        self.residuals = nn.ModuleList(
            Residual(width, config.dropout, config.drop_path) for _ in range(3)
        )

    def forward(
        self,
        dense: Tensor,
        keys_values: tuple[Tensor, Tensor],
        text_lengths: Tensor,
        time: Tensor,
        lengths: Tensor,
    ) -> Tensor:
        """Refine the stream once.

        Args:
            dense: [B, L, F].
            keys_values: the sentence as `text_attention.keys_values` gives it, [B, N, H, F/H] each.
            text_lengths: [B], valid part of N.
            time: [L, F], sinusoidal code of when each of L is, in clips.
            lengths: [B], valid part of L.
        """
        to_text, over_time, feed_forward = self.residuals
        dense = to_text(dense, self.text_attention(dense + time, keys_values, text_lengths))
        dense = over_time(dense, self._look_over_time(dense, time, lengths))
        return feed_forward(dense, self.feed_forward(dense))

    def needs_window(self, clips: int) -> bool:
        """Whether videos of so many clips are attended to through a window."""
        return self.window is not None and clips > self.window + 1

    def _look_over_time(self, dense: Tensor, time: Tensor, lengths: Tensor) -> Tensor:
        """Self-attention; through a window and global tokens where the videos exceed it [S]."""
        if not self.needs_window(dense.shape[1]):
            return self.time_attention(dense, time, lengths)
        count = self.global_tokens
        weights = part_weights(lengths, count, dense.shape[1]).to(dense.dtype)
        stream = torch.cat((weights @ dense, dense), 1)
        position = torch.cat((weights @ time, time.expand_as(dense)), 1)
        seen = self.time_attention(stream, position, lengths + count, self.window, count)
        return seen[:, count:]


def look_around(attention: SelfAttention, gain: float = 0.8) -> None:
    """Start every head at a distance of its own in time: 0, -1, 1, -2, 2, -4, ... clips [D].

    What happens shows in how neighbouring clips differ, and attention from random weights takes
    long to find them; deformable attention spreads its first points for the same reason. A (sine,
    cosine) pair of the code of t + d is that of t, rotated. So where keys read some pairs as they
    are and queries read them rotated, the logit of clip s at t is largest at s = t + d. The pairs
    are of the faster half, which separates neighbours.
    """
    heads, width = attention.heads, attention.query_key.in_features
    pairs = width // heads // 2
    read = torch.linspace(0, width // 4 - 1, pairs).round().long()
    weight = torch.zeros(2, heads, width // heads, width)
    # [query or key, head, pair, what comes out, what goes in, frequency]
    by_pair = weight[:, :, : 2 * pairs].unflatten(2, (pairs, 2)).unflatten(4, (2, width // 2))
    for head in range(heads):
        distance = (-1) ** head * 2 ** ((head - 1) // 2) if head else 0
        sine, cosine = sine_encoding(torch.tensor(distance), width).view(2, -1)[:, read]
        rotation = torch.stack((cosine, sine, -sine, cosine), -1).unflatten(-1, (2, 2))
        by_pair[0, head, torch.arange(pairs), :, :, read] = gain * rotation
        by_pair[1, head, torch.arange(pairs), :, :, read] = gain * torch.eye(2)
    with torch.no_grad():
        attention.query_key.weight.copy_(weight.flatten(0, 2))
        attention.query_key.bias.zero_()


def part_weights(lengths: Tensor, parts: int, size: int) -> Tensor:
    """[B, parts, size]: each row averages one of `parts` equal parts of the valid [0, length)."""
    index = torch.arange(size, device=lengths.device)
    part = index * parts // lengths.clamp(min=1)[:, None]
    inside = (part[:, None] == torch.arange(parts, device=lengths.device)[:, None]).float()
    return inside / inside.sum(-1, keepdim=True).clamp(min=1)


def average_stride(x: Tensor, lengths: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Average every `stride` neighbours in time, over the valid ones only.

    Args:
        x: [B, L, F].
        lengths: [B], valid part of L; padding is not read.

    Returns:
        [B, ceil(L/stride), F] (zero where a window holds nothing valid) and its lengths.
    """
    if stride == 1:
        return x, lengths
    size = x.shape[1]
    valid = torch.arange(size, device=x.device) < lengths[:, None]
    padding = -(-size // stride) * stride - size
    x = nn.functional.pad(x.masked_fill(~valid[..., None], 0.0), (0, 0, 0, padding))
    count = nn.functional.pad(valid, (0, padding)).unflatten(1, (-1, stride)).sum(-1)
    mean = x.unflatten(1, (-1, stride)).sum(2) / count.clamp(min=1)[..., None]
    return mean, (lengths + stride - 1) // stride


def _is_lerp_of_mixed_dtypes() -> bool:
    """Whether `torch.lerp` takes a weight of another dtype: not in PyTorch 2.4 and 2.6."""
    half = torch.zeros(1, dtype=torch.bfloat16)
    try:
        torch.lerp(half, half, torch.tensor(0.5))
    except RuntimeError:
        return False
    return True


_MIXES = _is_lerp_of_mixed_dtypes()


def blend(x: Tensor, y: Tensor, share: Tensor) -> Tensor:
    """x + share (y - x) in the dtype of both, with a scalar `share` of any."""
    return torch.lerp(x, y, share if _MIXES else share.to(x.dtype))


def resample(x: Tensor, lengths: Tensor, stride: int, target_stride: int, size: int) -> Tensor:
    """Carry the stream from one temporal stride to another by linear interpolation.

    Both sequences hold values at the centres of their windows: element i of the target stands at
    clip (i + 1/2)*target_stride, element j of the source at (j + 1/2)*stride. Beyond the first and
    the last valid centre the nearest value is kept.

    Args:
        x: [B, L, F] at `stride`.
        lengths: [B], valid part of L.
        size: number of elements at `target_stride`.

    Returns:
        [B, size, F].
    """
    if stride == target_stride:
        return x
    index = torch.arange(size, device=x.device)
    position = ((index + 0.5) * (target_stride / stride) - 0.5).clamp(min=0)
    last = (lengths[:, None] - 1).clamp(min=0)
    left = torch.minimum(position.floor().long(), last)
    right = torch.minimum(left + 1, last)
    share = (position - position.floor()).to(x.dtype)[None, :, None]

    batch, length, width = x.shape
    rows, first = x.reshape(-1, width), length * torch.arange(batch, device=x.device)[:, None]

    def take(at: Tensor) -> Tensor:  # whole rows, where `gather` would go number by number
        return take_rows(rows, (first + at).flatten()).view(batch, size, width)

    return torch.lerp(take(left), take(right), share)
