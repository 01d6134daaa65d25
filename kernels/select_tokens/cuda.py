"""The selection in CUDA (csrc/cuda/select_tokens.cu): radix select of the scores' integer keys.

Fused in two kernels: averages of the pyramid, keys, quotas, filling up and sorting. The eager
formulation writes masks [B, segments, n] and sorts them per level; here a key, 8 bytes, is written
once and read once per digit, at most 8 times and from cache: about three digits tell apart the
scores of a video.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdst.kernels import library, pyramid

MAX_LEVELS = 8  # kMaxLevels of csrc/cuda/select_tokens.cu


def unsupported_reasons(scores: Tensor, strides: Sequence[int]) -> list[str]:
    """Why this call cannot be served by CUDA; empty if it can."""
    reasons = []
    if scores.device.type != "cuda":
        reasons.append(f"scores are on {scores.device}, expected a CUDA device")
    if len(strides) > MAX_LEVELS:
        reasons.append(f"{len(strides)} levels, at most {MAX_LEVELS} are offered")
    if missing := library.missing_reason("cuda"):
        reasons.append(missing)
    return reasons


def select(
    scores: Tensor, k: int, lengths: Tensor | None, strides: Sequence[int], segments: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, indices and validity [B, k] of the kept tokens, from raw scores [B, L, P] fp32."""
    batch, length, per_clip = scores.shape
    inputs = scores, library.prepare_lengths(lengths), torch.tensor(strides)
    entries = sum(pyramid.steps(length, strides)) * per_clip
    indices = scores.new_empty(batch, k, dtype=torch.int64)
    kept, valid = scores.new_empty(batch, k), scores.new_empty(batch, k, dtype=torch.bool)
    keys, taken = indices.new_empty(batch, entries), indices.new_empty(batch, 2, k)
    library.launch(
        "sdst_select_tokens",
        scores.device,
        *library.pointers(*inputs, indices, kept, valid, keys, taken),
        *(batch, length, per_clip, k, len(strides), segments, entries),
    )
    return kept, indices, valid
