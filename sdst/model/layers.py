"""The building blocks both streams are made of."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sdst.kernels import cross_attention, dense_attention, dropout, residual_norm
from sdst.model.shared import SharedLinear, SharedWeight

KeysValues = list[tuple[Tensor, Tensor]]  # of every step, each [B, N, H, F/H]


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """[B] lengths -> [B, size] bool, True where an element is real and not padding."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def sine_frequencies(width: int, device: torch.device | None = None) -> Tensor:
    """[width / 2], of `sine_encoding`: from 1 down to about 1 / 10,000."""
    exponent = torch.arange(width // 2, device=device, dtype=torch.float32) * (2 / width)
    return torch.exp(-math.log(10_000.0) * exponent)


def sine_encoding(position: Tensor, width: int) -> Tensor:
    """Sinusoidal code of real-valued positions.

    Args:
        position: [...], in units in which a step of 1 is the finest that matters.
        width: size of the code, even.

    Returns:
        [..., width]: sines in the first half, cosines in the second.
    """
    return sine_code(position, sine_frequencies(width, position.device))


def sine_code(position: Tensor, frequencies: Tensor) -> Tensor:
    """`sine_encoding` [..., 2n] by its n `frequencies`."""
    angle = position[..., None].float() * frequencies
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """`rows.index_select(0, index)`, whose gradient is the same on every run on a GPU, too.

    Several places may take the same row, and PyTorch adds their gradients up in whatever order they
    arrive there.

    Args:
        rows: [N, F].
        index: [n], which never falls from one place to the next.

    Returns:
        [n, F].
    """
    return _TakeRows.apply(rows, index)


class _TakeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor) -> Tensor:
        ctx.count = rows.shape[0]
        ctx.save_for_backward(index)
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        [grad], [index] = grads, ctx.saved_tensors
        # On a CPU both add in the order of the places, and `index_add` is far faster.
        add_up = sum_segments if grad.is_cuda else sum_places
        return add_up(grad, index, ctx.count), None


def sum_places(values: Tensor, index: Tensor, count: int) -> Tensor:
    """[count, F], the sums of those of `values` [n, F] with the same `index` [n]."""
    return values.new_zeros(count, values.shape[1]).index_add(0, index, values)


def sum_segments(values: Tensor, index: Tensor, count: int) -> Tensor:
    """As `sum_places` for an `index` that never falls: every sum is of one segment of `values`."""
    bounds = torch.searchsorted(index, torch.arange(count + 1, device=index.device))
    return torch.segment_reduce(values.contiguous(), "sum", offsets=bounds, axis=0)


class Dropout(nn.Module):
    """Zero a random part of the elements, in training only."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training and self.rate > 0 else x


class Residual(nn.Module):
    """Post-norm residual: LN(x + DropPath(Dropout(branch)))  [D: R2-Tuning].

    DropPath skips the branch for a random part of the samples (stochastic depth). Both drop in
    training only.
    """

    def __init__(self, width: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.dropout, self.drop_path = dropout, drop_path
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """x and branch [B, N, F] -> [B, N, F]."""
        rates = (self.dropout, self.drop_path) if self.training else (0.0, 0.0)
        return residual_norm(x, branch, self.norm.weight, self.norm.bias, *rates)


class Projection(nn.Sequential):
    """Backbone width to F: LN, Dropout, Linear, ReLU, LN, Dropout, Linear  [D: R2-Tuning]."""

    def __init__(self, source: int, width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(source),
            Dropout(dropout),
            nn.Linear(source, width),
            nn.ReLU(),
            nn.LayerNorm(width),
            Dropout(dropout),
            nn.Linear(width, width),
        )


class MLP(nn.Sequential):
    """Linear layers with ReLU between: `MLP(a, b, c)` maps a to c through b."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        for source, target in pairwise(widths):
            if len(self):
                self.append(nn.ReLU())
            self.append(SharedLinear(source, target))


class FeedForward(MLP):
    """The transformer's two-layer FFN, four times as wide inside  [D: R2-Tuning]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 4 * width, width)


class NeighbourConv(SharedWeight, nn.Conv1d):
    """Convolution over a clip and its two neighbours in time, as one matrix product."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width, kernel_size=3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """[B, L, F] -> [B, L, F], with zeros beyond the ends."""
        return self.multiply(_Around.apply(input))

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Weight [F, 3F] and bias [F] on a clip between its neighbours."""
        assert self.bias is not None  # this convolution is never built without
        return self.weight.transpose(1, 2).flatten(1), self.bias


class _Around(torch.autograd.Function):
    """[B, L, F] -> [B, L, 3F], every element between its neighbours, zeros beyond the ends."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        length, padded = x.shape[1], functional.pad(x, (0, 0, 1, 1))
        return torch.cat([padded[:, i : i + length] for i in range(3)], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        before, itself, after = grads[0].chunk(3, -1)
        total = itself.clone()
        total[:, :-1].add_(before[:, 1:])
        total[:, 1:].add_(after[:, :-1])
        return total


class CrossAttentionLayers(nn.Module):
    """The layers of multi-head attention from a few queries to another sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = SharedLinear(width, width)
        self.key_value = nn.Linear(width, 2 * width)  # of all steps at once
        self.out = SharedLinear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """[..., N, F] -> keys and values, each [..., N, H, F/H]."""
        return split_keys_values(self.key_value(memory), self.heads)

    def attend(self, x: Tensor, keys_values: tuple[Tensor, Tensor], lengths: Tensor) -> Tensor:
        """x [B, L, F], keys and values [B, N, H, F/H], lengths [B], valid part of N."""
        query = self.query(x).unflatten(-1, (self.heads, -1))
        return self.out(cross_attention(query, *keys_values, lengths).flatten(2))


class CrossAttention(CrossAttentionLayers):
    """Multi-head attention to a sequence whose keys and values are at hand."""

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], lengths: Tensor) -> Tensor:
        """As `attend`."""
        return self.attend(x, keys_values, lengths)


def split_keys_values(joint: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """[..., N, 2F], keys before values -> each [..., N, H, F/H]."""
    keys, values = joint.unflatten(-1, (2, heads, -1)).unbind(-3)
    return keys, values


def by_step(keys: Tensor, values: Tensor) -> KeysValues:
    """[B, K, N, H, F/H] each -> for every step, [B, N, H, F/H] each."""
    return list(zip(keys.unbind(1), values.unbind(1), strict=True))


class SelfAttention(nn.Module):
    """Multi-head self-attention; positions are added to queries and keys, not to values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key = SharedLinear(width, 2 * width)
        self.value = SharedLinear(width, width)
        self.out = SharedLinear(width, width)

    def forward(
        self,
        x: Tensor,
        position: Tensor,
        lengths: Tensor | None = None,
        window: int | None = None,
        global_clips: int = 0,
    ) -> Tensor:
        """x [B, L, F], position broadcastable to it, lengths [B] or None (all real).

        `window` and `global_clips`: see `dense_attention`.
        """
        query, key = self.query_key(x + position).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        value = self.value(x).unflatten(-1, (self.heads, -1))
        read = dense_attention(query, key, value, lengths, window=window, global_clips=global_clips)
        return self.out(read.flatten(2))
