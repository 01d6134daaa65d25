"""Non-maximum suppression in C++ (csrc/cpu/temporal_nms.cpp), by ctypes."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import library
from sdst.kernels.temporal_nms.reference import METHODS

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

_compute = library.function("sdst_temporal_nms", "ppppp" + "nnn" + "fff" + "i")


def unsupported_reasons(spans: Tensor, scores: Tensor, counts: Tensor | None) -> list[str]:
    """Why the C++ kernel cannot serve this call; empty if it can."""
    reasons = dtype_reasons(spans, scores)
    if scores.device.type != "cpu":
        reasons.append(f"scores are on {scores.device}, only cpu is offered")
    if missing := library.missing_reason():
        reasons.append(missing)
    return reasons


def dtype_reasons(spans: Tensor, scores: Tensor) -> list[str]:
    """Inputs as every kernel takes them: it computes in fp32."""
    return [
        f"{name} are {tensor.dtype}, only fp32, bf16 and fp16 are offered"
        for name, tensor in (("spans", spans), ("scores", scores))
        if tensor.dtype not in DTYPES
    ]


def prepare(
    spans: Tensor, scores: Tensor, counts: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Contiguous fp32 spans and scores, int64 counts."""
    return (
        spans.float().contiguous(),
        scores.float().contiguous(),
        library.prepare_lengths(counts),
    )


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
    _compute(
        *library.pointers(*inputs, order, kept),
        *scores.shape,
        METHODS.index(method),
        threshold,
        sigma,
        min_score,
        torch.get_num_threads(),
    )
    return order, kept.to(scores.dtype)
