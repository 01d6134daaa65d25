"""Hidden states of a tower's blocks or stages as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from torch import Tensor
from torch.nn import functional


def normalized(tokens: Tensor) -> Tensor:
    """Hidden states [..., D] at unit scale: LayerNorm without weights, fp32.

    The residual stream of a deep tower has a few huge channels; normalised it fits fp16, and
    scores against it start at unit scale. The tuner's projections begin with a LayerNorm, which
    sees no difference.
    """
    return functional.layer_norm(tokens.float(), tokens.shape[-1:])


def as_tokens(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps [T, C, H, W] averaged over the cells of a coarser `grid`, as tokens [T, P, C]."""
    return functional.adaptive_avg_pool2d(maps.float(), grid).flatten(2).mT


def in_slots(stages: Sequence[Tensor]) -> Tensor:
    """Tokens [T, P, C_k] of K stages as [K, T, P, C_1 + ... + C_K], 0 outside of their own slot.

    Channels of one stage mean nothing in another: in slots of their own, each has its own rows of
    the projection that the tuner shares among layers.
    """
    widths = [stage.shape[-1] for stage in stages]
    room = stages[0].new_zeros(len(stages), *stages[0].shape[:-1], sum(widths))
    for number, (stage, end) in enumerate(zip(stages, accumulate(widths), strict=True)):
        room[number, ..., end - stage.shape[-1] : end] = stage
    return room
