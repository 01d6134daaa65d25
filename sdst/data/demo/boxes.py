"""Grounded supervision for the demo's backbone: every patch says what lies in it.

Captions of a whole frame teach a tiny model from nothing too slowly where things are and what shape
they have. So in pre-training a linear reader on the patch tokens of each tapped block predicts the
object whose centre the patch holds. The readers are thrown away afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdst.data.demo.scenes import COLOURS, SHAPES
from sdst.data.demo.stills import Still

_GEOMETRY = 5  # offsets in the patch, log diameter, width over height, opacity


class BoxReaders(nn.Module):
    """One linear reader per block: objectness, colour, shape and geometry of every patch."""

    def __init__(self, width: int, layers: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.readers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width, elementwise_affine=False),
                nn.Linear(width, 1 + len(COLOURS) + len(SHAPES) + _GEOMETRY),
            )
            for _ in range(layers)
        )

    def loss(self, tokens: Sequence[Tensor], stills: Sequence[Still]) -> Tensor:
        """Mean over the blocks' `tokens`, each [B, 1 + grid * grid, width], CLS first."""
        still, patch, kind, geometry = self._targets(stills)
        there = torch.zeros(len(stills), self.grid**2)
        there[still, patch] = 1
        total = torch.zeros(())
        sizes = (1, len(COLOURS), len(SHAPES), _GEOMETRY)
        for reader, block in zip(self.readers, tokens, strict=True):
            read = reader(block[:, 1:])
            _, colour, shape, where = read[still, patch].split(sizes, dim=-1)
            total = total + 3 * F.binary_cross_entropy_with_logits(read[..., 0], there)
            total = total + F.cross_entropy(colour, kind[:, 0]) + F.cross_entropy(shape, kind[:, 1])
            total = total + 3 * F.smooth_l1_loss(where, geometry, beta=0.1)
        return total / len(self.readers)

    def _targets(self, stills: Sequence[Still]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per object: index of its still, of its patch, (colour, shape) [n, 2], geometry [n, 5]."""
        still, patch, kind, geometry = [], [], [], []
        for i, seen in enumerate(still.seen for still in stills):
            for thing in seen:
                column, row = (
                    min(max(int(v * self.grid), 0), self.grid - 1) for v in (thing.x, thing.y)
                )
                still.append(i)
                patch.append(row * self.grid + column)
                kind.append((COLOURS.index(thing.look.colour), SHAPES.index(thing.look.shape)))
                geometry.append(
                    (
                        thing.x * self.grid - column - 0.5,
                        thing.y * self.grid - row - 0.5,
                        torch.tensor(thing.diameter).log().item() + 1.4,
                        thing.stretch,
                        thing.opacity,
                    )
                )
        return (
            torch.tensor(still, dtype=torch.long),
            torch.tensor(patch, dtype=torch.long),
            torch.tensor(kind, dtype=torch.long).reshape(-1, 2),
            torch.tensor(geometry).reshape(-1, _GEOMETRY),
        )
