"""Deformable attention over time: linear sampling at S points per head and query, weighted sum."""

from __future__ import annotations

from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.deformable_attention import reference

dispatch.register("deformable_attention", reference=dispatch.always)


def deformable_attention(
    value: Tensor,
    points: Tensor,
    weights: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    dispatch.choose("deformable_attention", implementation, value, points, weights, lengths)
    return reference.deformable_attention(value, points, weights, lengths)
