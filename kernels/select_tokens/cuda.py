"""The selection in CUDA (csrc/cuda/select_tokens.cu): radix select of the scores' integer keys.

Fused in two kernels: averages of the pyramid, keys, quotas, filling up and sorting. The eager
formulation writes masks [B, segments, n] and sorts them per level; here a key, 8 bytes, is written
once and read once per digit, at most 8 times and from cache: about three digits separate the
scores of a video.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from sdst.kernels import cuda_kernels, library, pyramid

MAX_LEVELS = 8  # kMaxLevels of csrc/cuda/select_tokens.cu
THREADS = 256  # kThreads there

_fill_quotas = cuda_kernels.Kernel("select_tokens", "fill_quotas")
_finish = cuda_kernels.Kernel("select_tokens", "finish")


class Pyramid(ctypes.Structure):
    """As csrc/cuda/select_tokens.cu has it."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("length", "per_clip", "kept", "levels")),
        *((name, ctypes.c_int64) for name in ("segments", "entries")),
        ("strides", ctypes.c_int64 * MAX_LEVELS),
    )


def unsupported_reasons(scores: Tensor, strides: Sequence[int]) -> list[str]:
    """Why this call cannot be served by CUDA; empty if it can."""
    reasons = []
    if missing := cuda_kernels.missing_reason("select_tokens", scores.device):
        reasons.append(missing)
    if len(strides) > MAX_LEVELS:
        reasons.append(f"{len(strides)} levels, at most {MAX_LEVELS} are offered")
    return reasons


def select(
    scores: Tensor, k: int, lengths: Tensor | None, strides: Sequence[int], segments: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, indices and validity [B, k] of the kept tokens, from raw scores [B, L, P] fp32."""
    batch, length, per_clip = scores.shape
    valid_lengths = library.prepare_lengths(lengths)
    entries = sum(pyramid.steps(length, strides)) * per_clip
    indices = scores.new_empty(batch, k, dtype=torch.int64)
    kept, valid = scores.new_empty(batch, k), scores.new_empty(batch, k, dtype=torch.bool)
    keys, taken = indices.new_empty(batch, entries), indices.new_empty(batch, 2, k)
    padded = (ctypes.c_int64 * MAX_LEVELS)(*strides)
    n = Pyramid(length, per_clip, k, len(strides), segments, entries, padded)
    samples = batch if k > 0 else 0
    _fill_quotas.launch(
        scores.device,
        samples * len(strides) * segments,
        THREADS,
        *(scores, valid_lengths, keys, taken, n),
    )
    _finish.launch(
        scores.device, samples, THREADS, *(valid_lengths, keys, taken, indices, kept, valid, n)
    )
    return kept, indices, valid
