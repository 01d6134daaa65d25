"""Cross-attention to frozen tokens picked by index, without projecting or copying the store."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from sdst.kernels import dispatch, pyramid, triton_support
from sdst.kernels.examples import ANY, SOME, STORES, STRIDES, WIDTHS, Make
from sdst.kernels.gathered_attention import native, reference
from sdst.kernels.quantization import check_scales
from sdst.kernels.registry import H100, Arguments, Op, always, register
from sdst.kernels.shapes import FLAG, FLOAT, INDEX, LENGTH, STORED, check_tensors

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "gathered_attention_forward("
    "Tensor query, Tensor tokens, Tensor indices, Tensor bias, Tensor valid, Tensor? lengths, "
    "int[] strides, float scale, Tensor? scales) -> Tensor"
)
torch_ops.define(
    "gathered_attention_backward("
    "Tensor grad, Tensor query, Tensor tokens, Tensor indices, Tensor bias, Tensor valid, "
    "Tensor? lengths, int[] strides, float scale, Tensor? scales) -> (Tensor, Tensor)"
)
torch_ops.impl("gathered_attention_forward", native.forward, "CPU")
torch_ops.impl("gathered_attention_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.gathered_attention.triton", name)
    torch_ops.impl(f"gathered_attention_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::gathered_attention_forward")
def _fake_forward(query: Tensor, *keys: object) -> Tensor:
    return _like_rows(query)


@torch.library.register_fake("sdst::gathered_attention_backward")
def _fake_backward(
    grad: Tensor, query: Tensor, tokens: Tensor, indices: Tensor, bias: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    return _like_rows(query), bias.new_empty(bias.shape)


def _like_rows(query: Tensor) -> Tensor:
    """A result [B, M, H, D], which is in memory as [H, B, M, D], see native.py."""
    batch, queries, heads, width = query.shape
    return query.new_empty(heads, batch, queries, width).permute(1, 2, 0, 3)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.strides, ctx.scale, scales = inputs
    ctx.save_for_backward(scales, *tensors)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    scales, *tensors = ctx.saved_tensors
    query, bias = torch.ops.sdst.gathered_attention_backward.default(
        grad, *tensors, ctx.strides, ctx.scale, scales
    )
    return query, None, None, bias, None, None, None, None, None


torch.library.register_autograd(
    "sdst::gathered_attention_forward", _differentiate, setup_context=_save
)


def _not_on_gpu(
    query: Tensor, tokens: Tensor, indices: Tensor, bias: Tensor, valid: Tensor
) -> list[str]:
    reasons = triton_support.unsupported_reasons(query=query, tokens=tokens, bias=bias)
    return reasons + triton_support.tf32x3_reasons()


def gathered_attention(
    query: Tensor,
    tokens: Tensor,
    indices: Tensor,
    bias: Tensor,
    valid: Tensor,
    lengths: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 2, 4, 8),
    scale: float,
    scales: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Attend to the picked tokens of the temporal pyramid, keys and values both the tokens:

        out = sum_j softmax_j(scale <q, x_j> + bias_j) x_j    over the valid j

    The key projection is absorbed in the query (<q, W_k x> = <W_k^T q, x>) and the value projection
    follows on the result, both by the caller, so a frozen token is read in its stored format.

    Args:
        query: [B, M, H, D].
        tokens: [B, L, P, D] fp32, fp16, bf16, or int8 with `scales`; frozen, gets no gradient.
        indices: [B, k] int64, flat pyramid indices as `select_tokens` gives them; where not valid,
            anything.
        bias: [B, k], added to the logits of every query and head.
        valid: [B, k] bool; the others take no part.
        lengths: [B] int64, valid clips of each video, clamped into [0, L]; all of L if None.
        strides: of the pyramid's levels, the same as for `select_tokens`.
        scale: of the logits.
        scales: [B, L, P] fp32, what each stored token is multiplied by (`sdst.kernels.quantize`).
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, M, H, D] in the query's dtype, accumulated in fp32; 0 for a sample with nothing valid.
        Differentiable with respect to query and bias, deterministically.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, strides out of range, or
            on a CPU a valid index that is none of the pyramid's. A GPU would have to wait to say
            so: there such an index counts as not valid.
    """
    check_tensors(
        "gathered_attention",
        query=("BMHD", FLOAT, query),
        tokens=("BLPD", STORED, tokens),
        indices=("Bk", INDEX, indices),
        bias=("Bk", FLOAT, bias),
        valid=("Bk", FLAG, valid),
        lengths=("B", LENGTH, lengths),
        scales=("BLP", FLOAT, scales),
    )
    pyramid.check_strides("gathered_attention", tokens, strides)
    check_scales("gathered_attention", tokens, scales)
    chosen = dispatch.choose(
        "gathered_attention", implementation, query, tokens, indices, bias, valid
    )
    if chosen == "reference":
        return reference.gathered_attention(
            query, tokens, indices, bias, valid, lengths, strides, scale, scales
        )
    return torch.ops.sdst.gathered_attention_forward.default(
        query, tokens, indices, bias, valid, lengths, strides, scale, scales
    )


def flops(batch: int, rows: int, kept: int, width: int) -> int:
    """Floating point operations of the forward pass, rows = M H; the backward takes 1.5 times."""
    return 4 * batch * rows * kept * width


@register_flop_formula(torch.ops.sdst.gathered_attention_forward)
def _forward_flops(query: list[int], tokens: list[int], indices: list[int], *_, **__) -> int:
    batch, queries, heads, width = query
    return flops(batch, queries * heads, indices[-1], width)


@register_flop_formula(torch.ops.sdst.gathered_attention_backward)
def _backward_flops(grad: list[int], *forward: list[int], **__) -> int:
    return int(1.5 * _forward_flops(*forward))


def traffic(
    batch: int,
    rows: int,
    kept: int,
    width: int,
    strides: Sequence[int] = (1, 2, 4, 8),
    element: int = 4,
) -> int:
    """Bytes that the forward pass must move at least; `element` is a stored number's.

    The kept tokens count as spread evenly over the pyramid's levels, each read once.
    """
    raw = kept * sum(strides) / len(strides)
    return int(batch * (raw * width * element + 8 * rows * width + 13 * kept))


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    per_clip: int = 2,
    width: int = 8,
    queries: int = 4,
    heads: int = 2,
    kept: int = 4,
    strides: Sequence[int] = (1, 2, 4, 8),
    bounded: bool = True,
    stored: torch.dtype | None = None,
) -> Arguments:
    """Arguments of a call."""
    tokens, scales = make.tokens(batch, length, per_clip, width, stored=stored)
    count = sum(pyramid.steps(length, strides)) * per_clip
    valid = make.flags(batch, kept)
    return {
        "query": make.floats(batch, queries, heads, width),
        "tokens": tokens,
        "indices": make.integers(count, batch, kept),
        "bias": make.floats(batch, kept),
        "valid": valid if count > 0 else torch.zeros_like(valid),
        "lengths": make.lengths(batch, length, bounded),
        "strides": strides,
        "scale": 0.125,
        "scales": scales,
    }


_PATCHES = {
    **{"batch": 8, "length": 75, "per_clip": 50, "width": 768},
    **{"queries": 10, "heads": 8, "kept": 64},
}

register(
    Op(
        name="gathered_attention",
        call=gathered_attention,
        implementations={
            "triton": _not_on_gpu,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices={
            **dict.fromkeys(("batch", "length", "queries", "kept"), ANY),
            **dict.fromkeys(("per_clip", "heads"), SOME),
            "width": WIDTHS,
            "strides": STRIDES,
            "bounded": (True, False),
            "stored": STORES,
        },
        asked=("query", "tokens", "indices", "bias", "valid"),
        launches={"patches": _PATCHES, "patches in int8": {**_PATCHES, "stored": torch.int8}},
        ran_on={"triton": H100},
    )
)
