"""Grounded supervision for the demo's backbone: objects of patches, patches of phrases.

Captions of a whole frame teach a tiny model from nothing too slowly where things are, what shape
they have and which word names which. So in pre-training (a) a linear reader on the patch tokens of
each tapped block predicts the object over the patch: what it reads stays linear in the tokens,
places in coordinates of the whole frame, so that a move is a straight line there; (b) at each
tapped depth the mean token of a sentence is drawn to the patches of the objects it names. What is
needed for this besides the two towers is thrown away afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sdst.demo.pretraining.stills import Still
from sdst.demo.scenes import COLOURS, SHAPES, Look
from sdst.demo.sentences import Description, Seen, size_of

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
        over, things = _things_over(stills, self.grid)
        there, kind, geometry = over.float(), _kinds(things), _geometries(things, self.grid)
        total = torch.zeros(())
        sizes = (1, len(COLOURS), len(SHAPES), _GEOMETRY)
        for reader, block in zip(self.readers, tokens, strict=True):
            read = reader(block[:, 1:])
            _, colour, shape, where = read[over].split(sizes, dim=-1)
            total = total + 3 * F.binary_cross_entropy_with_logits(read[..., 0], there)
            total = total + F.cross_entropy(colour, kind[:, 0]) + F.cross_entropy(shape, kind[:, 1])
            total = total + 3 * F.smooth_l1_loss(where, geometry, beta=0.1)
        return total / len(self.readers)


class PhraseAlignment(nn.Module):
    """Contrast of sentences with patches in the hidden spaces of both towers, block by block."""

    def __init__(self, layers: int, grid: int) -> None:
        super().__init__()
        self.grid = grid
        self.log_scales = nn.Parameter(torch.full((layers,), math.log(10.0)))

    def loss(
        self,
        video: Sequence[Tensor],
        text: Sequence[Tensor],
        ids: Tensor,
        stills: Sequence[Still],
        named: Sequence[Description],
    ) -> Tensor:
        """Mean over blocks of the cross-entropy of finding the patches each sentence names.

        Args:
            video: tokens [B, 1 + grid * grid, width] of each block, CLS first.
            text: tokens [T, N, width] of each block.
            ids: [T, N] token ids, 0 where there is none.
            stills: the B stills.
            named: what the T sentences name.
        """
        over, things = _things_over(stills, self.grid)
        meant = torch.from_numpy(_meant(named, things))
        kept = meant.any(dim=1)
        share = meant[kept].float()
        share = share / share.sum(dim=1, keepdim=True)
        words = (ids[kept] != 0).float()[..., None]
        total = torch.zeros(())
        for patches, tokens, log_scale in zip(video, text, self.log_scales, strict=True):
            width = patches.shape[-1:]
            keys = F.layer_norm(patches[:, 1:], width)
            # Every patch of the batch competes, the empty ones too.
            keys = torch.cat([keys[over], keys[~over]])
            pooled = (F.layer_norm(tokens[kept], width) * words).sum(1) / words.sum(1)
            scores = F.normalize(pooled, dim=-1) @ F.normalize(keys, dim=-1).T * log_scale.exp()
            found = scores.log_softmax(dim=1)[:, : share.shape[1]]
            total = total - (share * found).sum(dim=1).mean()
        return total / len(self.log_scales)


def _meant(named: Sequence[Description], things: Sequence[Seen]) -> np.ndarray:
    """Bool [T, n]: does description t fit thing n?"""
    fits: dict[tuple[Description, Look], bool] = {}
    looks = [replace(thing.look, size=size_of(thing.diameter) or "") for thing in things]
    for pair in set(product(named, looks)):
        fits[pair] = pair[0].matches(pair[1])
    return np.array([[fits[d, look] for look in looks] for d in named]).reshape(len(named), -1)


def _things_over(stills: Sequence[Still], grid: int) -> tuple[Tensor, list[Seen]]:
    """Which patches an object lies over, bool [B, grid * grid], and in that order the objects.

    The nearest object counts where there are two; a patch that holds a centre is always under it.
    """
    middle = (np.arange(grid) + 0.5) / grid
    px, py = np.tile(middle, grid), np.repeat(middle, grid)
    over = np.zeros((len(stills), grid**2), dtype=bool)
    things: list[Seen] = []
    for i, seen in enumerate(still.seen for still in stills):
        if not seen:
            continue
        x, y, diameter = (
            np.array([getattr(thing, name) for thing in seen])[:, None]
            for name in ("x", "y", "diameter")
        )
        holds_centre = np.maximum(abs(px - x), abs(py - y)) <= 0.5 / grid
        distance = np.hypot(px - x, py - y)
        near = holds_centre | (distance < 0.45 * diameter)
        over[i] = near.any(axis=0)
        things += [seen[j] for j in np.where(near, distance, np.inf).argmin(axis=0)[over[i]]]
    return torch.from_numpy(over), things


def _kinds(things: Sequence[Seen]) -> Tensor:
    """(colour, shape) indices [n, 2]."""
    pairs = [(COLOURS.index(t.look.colour), SHAPES.index(t.look.shape)) for t in things]
    return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)


def _geometries(things: Sequence[Seen], grid: int) -> Tensor:
    """[n, 5], places counted from the middle of the frame."""
    rows = [
        (
            grid * (thing.x - 0.5),
            grid * (thing.y - 0.5),
            math.log(thing.diameter) + 1.4,
            thing.stretch,
            thing.opacity,
        )
        for thing in things
    ]
    return torch.tensor(rows).reshape(-1, _GEOMETRY)
