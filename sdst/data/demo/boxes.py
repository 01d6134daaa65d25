"""Grounded supervision for the demo's backbone: every patch says which object lies over it.

Captions of a whole frame teach a tiny model from nothing too slowly where things are and what shape
they have. So in pre-training a linear reader on the patch tokens of each tapped block predicts the
object over the patch. The readers are thrown away afterwards; what they read stays linear in the
tokens, places in coordinates of the whole frame, so that a move is a straight line in every token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdst.data.demo.scenes import COLOURS, SHAPES
from sdst.data.demo.stills import Still

_GEOMETRY = 5  # x and y in patches, log diameter, width over height, opacity


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
        over, kind, geometry = (torch.from_numpy(t) for t in _targets(stills, self.grid))
        there = over.float()
        total = torch.zeros(())
        sizes = (1, len(COLOURS), len(SHAPES), _GEOMETRY)
        for reader, block in zip(self.readers, tokens, strict=True):
            read = reader(block[:, 1:])
            _, colour, shape, where = read[over].split(sizes, dim=-1)
            total = total + 3 * F.binary_cross_entropy_with_logits(read[..., 0], there)
            total = total + F.cross_entropy(colour, kind[:, 0]) + F.cross_entropy(shape, kind[:, 1])
            total = total + 3 * F.smooth_l1_loss(where, geometry, beta=0.1)
        return total / len(self.readers)


def _targets(stills: Sequence[Still], grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which patches an object lies over, bool [B, grid * grid]; for each, in order, what it is,
    (colour, shape) [n, 2], and its geometry [n, 5]. The nearest object counts where there are two.
    """
    middle = (np.arange(grid) + 0.5) / grid
    px, py = np.tile(middle, grid), np.repeat(middle, grid)
    over, kind, geometry = [], [], []
    for seen in (still.seen for still in stills):
        if not seen:
            over.append(np.zeros(grid**2, dtype=bool))
            continue
        x, y, diameter = (
            np.array([getattr(thing, name) for thing in seen])[:, None]
            for name in ("x", "y", "diameter")
        )
        holds_centre = np.maximum(abs(px - x), abs(py - y)) <= 0.5 / grid
        distance = np.hypot(px - x, py - y)
        near = holds_centre | (distance < 0.45 * diameter)
        nearest = np.where(near, distance, np.inf).argmin(axis=0)
        over.append(near.any(axis=0))
        for thing in (seen[i] for i in nearest[over[-1]]):
            kind.append((COLOURS.index(thing.look.colour), SHAPES.index(thing.look.shape)))
            place = (grid * (thing.x - 0.5), grid * (thing.y - 0.5))
            geometry.append((*place, math.log(thing.diameter) + 1.4, thing.stretch, thing.opacity))
    return (
        np.stack(over),
        np.array(kind, dtype=np.int64).reshape(-1, 2),
        np.array(geometry, dtype=np.float32).reshape(-1, _GEOMETRY),
    )
