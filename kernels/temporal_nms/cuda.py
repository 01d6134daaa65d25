"""The CUDA implementation in csrc/cuda/temporal_nms.cu: a warp per video, no host sync.

Fused in one kernel: IoU, decay and the search for the next best. The steps of the eager formulation
read and write [B, N] scores about ten times for every span taken; here a step reads 12 N bytes
(spans and scores, from cache) and writes 4 N.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sdst.kernels import cuda_kernels
from sdst.kernels.cuda_kernels import WARP
from sdst.kernels.temporal_nms.native import dtype_reasons, prepare
from sdst.kernels.temporal_nms.reference import METHODS

_suppress = cuda_kernels.Kernel("temporal_nms", "suppress")


class Suppression(ctypes.Structure):
    """As csrc/include/suppression.h has it."""

    _fields_ = (
        ("method", ctypes.c_int64),
        ("threshold", ctypes.c_float),
        ("sigma", ctypes.c_float),
        ("min_score", ctypes.c_float),
    )


def unsupported_reasons(spans: Tensor, scores: Tensor, counts: Tensor | None) -> list[str]:
    """Why this call cannot be served by CUDA; empty if it can."""
    reasons = dtype_reasons(spans, scores)
    if missing := cuda_kernels.missing_reason("temporal_nms", scores.device):
        reasons.append(missing)
    return reasons


def temporal_nms(
    spans: Tensor,
    scores: Tensor,
    counts: Tensor | None,
    method: str,
    threshold: float,
    sigma: float,
    min_score: float,
) -> tuple[Tensor, Tensor]:
    """See `sdst.kernels.temporal_nms`."""
    inputs = prepare(spans, scores, counts)
    order, kept = torch.empty_like(inputs[1], dtype=torch.int64), torch.empty_like(inputs[1])
    left = torch.empty_like(kept)  # scores as they decay
    batch, count = scores.shape
    _suppress.launch(
        scores.device,
        batch if count > 0 else 0,
        WARP,
        *(*inputs, left, order, kept, ctypes.c_int(count)),
        Suppression(METHODS.index(method), threshold, sigma, min_score),
    )
    return order, kept.to(scores.dtype)
