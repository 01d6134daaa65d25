"""Selection of the frozen tokens that matter for a sentence, at several temporal resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdst.kernels import dispatch, pyramid, triton_support
from sdst.kernels.examples import ANY, SOME, STORES, STRIDES, WIDTHS, Make
from sdst.kernels.quantization import check_scales
from sdst.kernels.registry import BY_NVCC, H100, Arguments, Op, always, register
from sdst.kernels.select_tokens import native, reference
from sdst.kernels.shapes import FLOAT, LENGTH, STORED, check_counts, check_tensors

MOST_KEPT, MOST_SEGMENTS = 2**24, 2**16

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "select_tokens_forward("
    "Tensor tokens, Tensor u, int k, Tensor? lengths, int[] strides, int segments, "
    "Tensor? scales) -> (Tensor, Tensor, Tensor)"
)
torch_ops.define(
    "select_tokens_backward("
    "Tensor grad, Tensor tokens, Tensor indices, Tensor valid, Tensor? lengths, int[] strides, "
    "Tensor? scales) -> Tensor"
)
torch_ops.impl("select_tokens_forward", native.forward, "CPU")
torch_ops.impl("select_tokens_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.select_tokens.triton", name)
    torch_ops.impl(f"select_tokens_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::select_tokens_forward")
def _fake_forward(
    tokens: Tensor, u: Tensor, k: int, *rest: object
) -> tuple[Tensor, Tensor, Tensor]:
    dtypes = (torch.float32, torch.int64, torch.bool)
    first, second, third = (u.new_empty(u.shape[0], k, dtype=dtype) for dtype in dtypes)
    return first, second, third


@torch.library.register_fake("sdst::select_tokens_backward")
def _fake_backward(grad: Tensor, tokens: Tensor, *rest: object) -> Tensor:
    return tokens.new_empty(tokens.shape[0], tokens.shape[3], dtype=torch.float32)


def _save(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, u, _, lengths, ctx.strides, _, scales = inputs
    _, indices, valid = output
    ctx.dtype = u.dtype
    ctx.save_for_backward(tokens, indices, valid, lengths, scales)


def _differentiate(ctx, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    *tensors, scales = ctx.saved_tensors
    u = torch.ops.sdst.select_tokens_backward.default(grad, *tensors, ctx.strides, scales)
    return None, u.to(ctx.dtype), None, None, None, None, None


torch.library.register_autograd("sdst::select_tokens_forward", _differentiate, setup_context=_save)


def _not_on_gpu(tokens: Tensor, u: Tensor, *rest: object) -> list[str]:
    return triton_support.unsupported_reasons(tokens=tokens, u=u)


def select_tokens(
    tokens: Tensor,
    u: Tensor,
    k: int,
    lengths: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 2, 4, 8),
    segments: int = 4,
    scales: Tensor | None = None,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Score every token of the temporal pyramid against a direction and keep the k best.

    score(x) = <x, u>. The budget k is split evenly over the resolutions and, within one, over
    equal segments of the valid length (remainders go to the first ones), so that what is kept
    covers the whole video; a token belongs to the segment of its first clip. What a group
    cannot fill goes to the best remaining tokens of all. Of equal scores the lower index wins.

    Args:
        tokens: [B, L, P, D] fp32, fp16, bf16, or int8 with `scales`; frozen, gets no gradient.
        u: [B, D].
        k: tokens to keep.
        lengths: [B] int64, valid clips of each video, clamped into [0, L]; all of L if None.
        strides: of the pyramid's levels; level r holds ceil(L / stride) steps of P tokens, each the
            mean over the valid clips of its window.
        segments: of time, per resolution.
        scales: [B, L, P] fp32, what each stored token is multiplied by (`sdst.kernels.quantize`).
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        indices [B, k] int64, flat into the levels in the order of `strides`
        (offset_r + t * P + p); scores [B, k] fp32, best first, differentiable with respect to u;
        valid [B, k] bool. Where there are fewer than k tokens: index 0, score 0, valid False.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, k, segments or strides
            out of range, or more than 2^30 tokens in a pyramid.
    """
    check_tensors(
        "select_tokens",
        tokens=("BLPD", STORED, tokens),
        u=("BD", FLOAT, u),
        lengths=("B", LENGTH, lengths),
        scales=("BLP", FLOAT, scales),
    )
    check_counts("select_tokens", k=(k, 0, MOST_KEPT), segments=(segments, 1, MOST_SEGMENTS))
    pyramid.check_strides("select_tokens", tokens, strides)
    check_scales("select_tokens", tokens, scales)
    if dispatch.choose("select_tokens", implementation, tokens, u, k, lengths) == "reference":
        return reference.select_tokens(tokens, u, k, lengths, strides, segments, scales)
    scores, indices, valid = torch.ops.sdst.select_tokens_forward.default(
        tokens, u, k, lengths, strides, segments, scales
    )
    return indices, scores, valid


def flops(batch: int, length: int, per_clip: int, width: int) -> int:
    """Floating point operations of the forward pass: a multiply-add per number of the store."""
    return 2 * batch * length * per_clip * width


def traffic(batch: int, length: int, per_clip: int, width: int, k: int, element: int = 4) -> int:
    """Bytes that the forward pass must move at least; `element` is a stored number's."""
    kept = 8 + 4 + 1  # index, score, valid
    return batch * (length * per_clip * width * element + 4 * width + k * kept)


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    per_clip: int = 2,
    width: int = 8,
    k: int = 4,
    segments: int = 4,
    strides: Sequence[int] = (1, 2, 4, 8),
    bounded: bool = True,
    stored: torch.dtype | None = None,
) -> Arguments:
    """Arguments of a call."""
    tokens, scales = make.tokens(batch, length, per_clip, width, stored=stored)
    return {
        "tokens": tokens,
        "u": make.floats(batch, width),
        "k": k,
        "lengths": make.lengths(batch, length, bounded),
        "strides": strides,
        "segments": segments,
        "scales": scales,
    }


_PATCHES = {"batch": 8, "length": 75, "per_clip": 50, "width": 768, "k": 64}

register(
    Op(
        name="select_tokens",
        call=select_tokens,
        implementations={
            "triton": _not_on_gpu,
            "native": native.unsupported_reasons,
            "reference": always,
        },
        example=example,
        choices={
            **dict.fromkeys(("batch", "length"), ANY),
            "per_clip": SOME,
            "width": WIDTHS,
            "k": range(21),
            "segments": range(1, 6),
            "strides": STRIDES,
            "bounded": (True, False),
            "stored": STORES,
        },
        asked=("tokens", "u", "k", "lengths"),
        launches={"patches": _PATCHES, "patches in int8": {**_PATCHES, "stored": torch.int8}},
        ran_on={"triton": H100, "cuda": BY_NVCC},
    )
)
