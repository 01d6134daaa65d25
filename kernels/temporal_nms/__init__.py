"""Batched non-maximum suppression of spans in time."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.examples import ANY, Make
from sdst.kernels.exporting import is_exporting
from sdst.kernels.registry import BY_NVCC, Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LENGTH, check_tensors
from sdst.kernels.temporal_nms import cuda, native, reference
from sdst.kernels.temporal_nms.reference import METHODS

torch_ops = torch.library.Library("sdst", "FRAGMENT")
for _name in ("cuda", "native", "reference"):
    torch_ops.define(
        f"temporal_nms_{_name}(Tensor spans, Tensor scores, Tensor? counts, "
        "str method, float threshold, float sigma, float min_score) -> (Tensor, Tensor)"
    )
torch_ops.impl("temporal_nms_cuda", cuda.temporal_nms, "CUDA")
torch_ops.impl("temporal_nms_native", native.temporal_nms, "CPU")
torch_ops.impl("temporal_nms_reference", reference.temporal_nms, "CompositeExplicitAutograd")


@torch.library.register_fake("sdst::temporal_nms_cuda")
@torch.library.register_fake("sdst::temporal_nms_native")
@torch.library.register_fake("sdst::temporal_nms_reference")
def _fake(spans: Tensor, scores: Tensor, *options: object) -> tuple[Tensor, Tensor]:
    return scores.new_empty(scores.shape, dtype=torch.int64), scores.new_empty(scores.shape)


def temporal_nms(
    spans: Tensor,
    scores: Tensor,
    counts: Tensor | None = None,
    *,
    method: Literal["hard", "linear", "gaussian"] = "hard",
    threshold: float = 0.5,
    sigma: float = 0.5,
    min_score: float = -math.inf,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Rank the spans of every video, suppressing those that overlap a better one.

    Again and again the best span left is taken, of equals the one of lower index, and the scores s
    of the others are decayed by their IoU o with it (Bodla et al., Soft-NMS, 2017), until none is
    left above `min_score`:

        hard        s <- -inf            where o > threshold
        linear      s <- s (1 - o)       where o > threshold
        gaussian    s <- s exp(-o^2 / sigma)

    The IoU of spans that do not overlap is 0, as is that of an empty, reversed or NaN span with
    any other.

    Args:
        spans: [B, N, 2], (start, end) in any unit.
        scores: [B, N]; the soft methods expect them >= 0. A span whose score is NaN is dropped.
        counts: [B] int64, valid spans of each video, clamped into [0, N]; the others are not read.
            All of N if None.
        method: how overlap is punished.
        threshold: IoU above which it is, >= 0; `gaussian` has none.
        sigma: width of the Gaussian, > 0.
        min_score: spans are dropped once their score is this or less.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        order [B, N] int64, the spans taken, best first, and -1 after the last; scores [B, N], the
        decayed score that each was taken with, and 0 after the last. No gradient.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, an unknown method,
            threshold < 0 or sigma not above 0.
    """
    _check(spans, scores, counts, method, threshold, sigma)
    chosen = dispatch.choose("temporal_nms", implementation, spans, scores, counts)
    if is_exporting() and chosen == "reference":
        return reference.temporal_nms(spans, scores, counts, method, threshold, sigma, min_score)
    op = getattr(torch.ops.sdst, f"temporal_nms_{chosen}").default
    return op(spans.detach(), scores.detach(), counts, method, threshold, sigma, min_score)


def flops(batch: int, spans: int, taken: int) -> int:
    """Floating point operations where `taken` spans are kept: about ten to a pair."""
    return 10 * batch * spans * taken


def traffic(batch: int, spans: int) -> int:
    """Least traffic: spans and scores in fp32 read once, order and scores written once."""
    return batch * spans * (3 * 4 + 8 + 4)


def _check(
    spans: Tensor,
    scores: Tensor,
    counts: Tensor | None,
    method: str,
    threshold: float,
    sigma: float,
) -> None:
    check_tensors(
        "temporal_nms",
        scores=("BN", FLOAT, scores),
        spans=("BN2", FLOAT, spans),
        counts=("B", LENGTH, counts),
    )
    if method not in METHODS:
        raise ValueError(f"temporal_nms: method is {method!r}, expected one of {METHODS}")
    if not (threshold >= 0 and sigma > 0):
        raise ValueError(
            f"temporal_nms: expected threshold >= 0 and sigma > 0, found {threshold} and {sigma}"
        )


def example(
    make: Make, batch: int = 1, spans: int = 4, bounded: bool = True, method: str = "hard"
) -> Arguments:
    """Arguments of a call."""
    return {
        "spans": make.floats(batch, spans, 2).sort(-1).values,
        "scores": make.floats(batch, spans).abs(),
        "counts": make.lengths(batch, spans, bounded),
        "method": method,
        "threshold": 0.5,
        "sigma": 0.5,
    }


register(
    Op(
        name="temporal_nms",
        call=temporal_nms,
        implementations={
            "cuda": cuda.unsupported_reasons,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices={
            "batch": ANY,
            "spans": range(13),
            "bounded": (True, False),
            "method": METHODS,
        },
        asked=("spans", "scores", "counts"),
        ran_on={"cuda": BY_NVCC},
    )
)
