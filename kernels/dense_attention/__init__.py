"""Attention with lengths: C++ on a CPU, a thin front over the attention libraries on a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.dense_attention import flash, native, sdpa, xformers
from sdst.kernels.examples import ANY, SOME, Make
from sdst.kernels.registry import Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LARGEST, LENGTH, check_counts, check_tensors

OP = "dense_attention"

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "dense_attention_forward("
    "Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? query_lengths) -> Tensor"
)
torch_ops.define(
    "dense_attention_backward("
    "Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? lengths, Tensor? query_lengths"
    ") -> (Tensor, Tensor, Tensor)"
)
torch_ops.impl("dense_attention_forward", native.forward, "CPU")
torch_ops.impl("dense_attention_backward", native.backward, "CPU")


@torch.library.register_fake("sdst::dense_attention_forward")
def _fake_forward(
    q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, query_lengths: Tensor | None
) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.register_fake("sdst::dense_attention_backward")
def _fake_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = (x.new_empty(x.shape) for x in (q, k, v))
    return grad_q, grad_k, grad_v


def _save(ctx, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    gradients = torch.ops.sdst.dense_attention_backward.default(grad, *ctx.saved_tensors)
    return *gradients, None, None


torch.library.register_autograd(
    "sdst::dense_attention_forward", _differentiate, setup_context=_save
)


def _by_native(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None,
    query_lengths: Tensor | None,
    *_: object,
) -> Tensor:
    return torch.ops.sdst.dense_attention_forward.default(q, k, v, lengths, query_lengths)


_SERVE = {
    "flash": flash.dense_attention,
    "xformers": xformers.dense_attention,
    "native": _by_native,
    "sdpa": sdpa.dense_attention,
}


def _order(*call: object) -> tuple[str, ...]:
    """flash-attn where there is a window, in which it is far ahead; PyTorch's own for all else.

    Without a window it is as fast, and faster for several lengths, which flash-attn needs packed.
    xformers waits for the device. Measured by benchmarks/bench_gpu.py.
    """
    *_, window, _ = call
    return ("native", "sdpa") if window is None else ("flash", "native", "sdpa")


def dense_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    dropout_p: float = 0.0,
    window: int | None = None,
    global_clips: int = 0,
    implementation: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over the valid clips of every video.

    With a window, clip i sees clip j if |i - j| <= window, or if one of them is global; time and
    memory then grow linearly with L. A video that fits into the window is attended to as a whole.

    Args:
        q: [B, L, H, C].
        k: as q.
        v: as q.
        lengths: [B] int64, valid part of L, clamped into [0, L]; None where all of it is. What lies
            beyond is not read.
        dropout_p: chance of an attention weight to be dropped, in [0, 1).
        window: clips that are seen to each side, at least 1; None is all of them.
        global_clips: so many clips, the first of the video, see all and are seen by all.
        implementation: `auto`, `flash` (flash-attn), `xformers`, `native` (C++, on a CPU) or `sdpa`
            (PyTorch).

    Returns:
        [B, L, H, C], 0 beyond `lengths`.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, a window of less than 1,
            a negative number of global clips, or dropout_p out of range.
        ImplementationError: the requested implementation does not fit the call.
    """
    check_tensors(
        OP,
        q=("BLHC", FLOAT, q),
        k=("BLHC", FLOAT, k),
        v=("BLHC", FLOAT, v),
        lengths=("B", LENGTH, lengths),
    )
    _check_dtypes(OP, q, k, v)
    check_counts(
        OP,
        window=(1 if window is None else window, 1, LARGEST),
        global_clips=(global_clips, 0, LARGEST),
    )
    if not 0 <= dropout_p < 1:
        raise ValueError(f"{OP}: dropout_p is {dropout_p}, expected 0 <= dropout_p < 1")
    if window is None or window >= q.shape[1] - 1:
        window, global_clips = None, 0
    call = (q, k, v, lengths, lengths, dropout_p, window, min(global_clips, q.shape[1]))
    return _SERVE[dispatch.choose(OP, implementation, *call)](*call)


def cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | None = None,
    *,
    implementation: str = "auto",
) -> Tensor:
    """softmax(q k^T / sqrt(C)) v from one sequence to another.

    Args:
        q: [B, M, H, C], all of it valid.
        k: [B, L, H, C].
        v: as k.
        lengths: [B] int64, valid part of L, clamped into [0, L]; None where all of it is. What lies
            beyond is not read.
        implementation: as for `dense_attention`.

    Returns:
        [B, M, H, C], 0 where there is nothing to attend to.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together.
        ImplementationError: the requested implementation does not fit the call.
    """
    check_tensors(
        "cross_attention",
        q=("BMHC", FLOAT, q),
        k=("BLHC", FLOAT, k),
        v=("BLHC", FLOAT, v),
        lengths=("B", LENGTH, lengths),
    )
    _check_dtypes("cross_attention", q, k, v)
    call = (q, k, v, lengths, None, 0.0, None, 0)
    return _SERVE[dispatch.choose(OP, implementation, *call)](*call)


def _check_dtypes(op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ValueError unless all are of one dtype, as every library asks."""
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"{op}: q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, expected one dtype"
        )


def flops(
    batch: int,
    length: int,
    heads: int,
    channels: int,
    window: int | None = None,
    global_clips: int = 0,
    keys: int | None = None,
) -> int:
    """Both matrix products of the forward pass, a multiply-add counted as two.

    `keys` of another sequence, or as many as `length`.
    """
    pairs = length * (keys or length)
    if window is not None:
        pairs = min(pairs, length * (2 * window + 1 + 2 * global_clips))
    return 4 * batch * heads * pairs * channels


def traffic(
    batch: int, length: int, heads: int, channels: int, size: int = 4, keys: int | None = None
) -> int:
    """Least traffic of the forward pass: q, k and v once, the output once."""
    return 2 * size * batch * (length + (keys or length)) * heads * channels


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    heads: int = 2,
    channels: int = 8,
    bounded: bool = True,
    window: int | None = None,
    global_clips: int = 0,
) -> Arguments:
    """Arguments of a call."""
    return {
        **{name: make.floats(batch, length, heads, channels) for name in "qkv"},
        "lengths": make.lengths(batch, length, bounded),
        "dropout_p": 0.0,
        "window": window,
        "global_clips": global_clips,
    }


register(
    Op(
        name=OP,
        call=dense_attention,
        implementations={
            "flash": flash.unsupported_reasons,
            "xformers": xformers.unsupported_reasons,
            "native": native.unsupported_reasons,
            "sdpa": always,
        },
        order=_order,
        example=example,
        choices={
            **dict.fromkeys(("batch", "length"), ANY),
            "heads": SOME,
            "channels": (1, 5, 16),
            "bounded": (True, False),
            "window": (None, None, 1, 2),
            "global_clips": range(3),
        },
        asked=("q", "k", "v", "lengths", "lengths", "dropout_p", "window", "global_clips"),
    )
)
