"""One feature per clip out of its tokens: attention over the best of them under a sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels import dispatch, triton_support
from sdst.kernels.examples import ANY, SOME, STORES, WIDTHS, Make
from sdst.kernels.pool_tokens import native, reference
from sdst.kernels.quantization import check_scales
from sdst.kernels.registry import H100, Arguments, Op, always, register
from sdst.kernels.shapes import FLOAT, LARGEST, LENGTH, STORED, check_counts, check_tensors

torch_ops = torch.library.Library("sdst", "FRAGMENT")
torch_ops.define(
    "pool_tokens_forward(Tensor tokens, Tensor u, int kept, Tensor? lengths, Tensor? scales)"
    " -> Tensor"
)
torch_ops.define(
    "pool_tokens_backward(Tensor grad, Tensor tokens, Tensor u, int kept, Tensor? lengths, "
    "Tensor? scales) -> Tensor"
)
torch_ops.impl("pool_tokens_forward", native.forward, "CPU")
torch_ops.impl("pool_tokens_backward", native.backward, "CPU")
for name in ("forward", "backward"):
    kernel = triton_support.late("sdst.kernels.pool_tokens.triton", name)
    torch_ops.impl(f"pool_tokens_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::pool_tokens_forward")
def _fake_forward(tokens: Tensor, u: Tensor, *rest: object) -> Tensor:
    batch, length, _, width = tokens.shape
    return u.new_empty(batch, length, width, dtype=torch.float32)


@torch.library.register_fake("sdst::pool_tokens_backward")
def _fake_backward(grad: Tensor, tokens: Tensor, u: Tensor, *rest: object) -> Tensor:
    return u.new_empty(u.shape)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    tokens, u, ctx.kept, lengths, scales = inputs
    ctx.save_for_backward(tokens, u, lengths, scales)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    tokens, u, lengths, scales = ctx.saved_tensors
    grad_u = torch.ops.sdst.pool_tokens_backward.default(grad, tokens, u, ctx.kept, lengths, scales)
    return None, grad_u, None, None, None


torch.library.register_autograd("sdst::pool_tokens_forward", _differentiate, setup_context=_save)


def _not_on_gpu(tokens: Tensor, u: Tensor) -> list[str]:
    return triton_support.unsupported_reasons(tokens=tokens, u=u)


def pool_tokens(
    tokens: Tensor,
    u: Tensor,
    kept: int,
    lengths: Tensor | None = None,
    *,
    scales: Tensor | None = None,
    implementation: str = "auto",
) -> Tensor:
    """Pool every clip over its best tokens under a direction.

        s_p = <x_p, u>,   w = softmax of s over the `kept` largest (equal ones included)
        out = sum_p w_p x_p

    A token that is not finite shows: as in the formula, its 0 * inf makes NaN of what it is in.

    The kernels read a clip's tokens once, in their stored format: no copy in another dtype,
    no scores and weights in memory, which the eager formulation writes and reads several times.

    Args:
        tokens: [B, L, P, D] fp32, fp16, bf16, or int8 with `scales`; frozen, gets no gradient.
        u: [B, D].
        kept: tokens of a clip that take part, all of them if there are fewer.
        lengths: [B] int64, valid clips of each video, clamped into [0, L]; all of L if None. What
            lies beyond is not read and gives 0.
        scales: [B, L, P] fp32, what each stored token is multiplied by (`sdst.kernels.quantize`).
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, L, D] in fp32 or wider, differentiable with respect to u, deterministically.

    Raises:
        ValueError: shapes, dtypes or devices that do not belong together, or kept < 1.
    """
    check_tensors(
        "pool_tokens",
        tokens=("BLPD", STORED, tokens),
        u=("BD", FLOAT, u),
        lengths=("B", LENGTH, lengths),
        scales=("BLP", FLOAT, scales),
    )
    check_counts("pool_tokens", kept=(kept, 1, LARGEST))
    check_scales("pool_tokens", tokens, scales)
    chosen = dispatch.choose("pool_tokens", implementation, tokens, u)
    if chosen == "reference":
        return reference.pool_tokens(tokens, u, kept, lengths, scales)
    return torch.ops.sdst.pool_tokens_forward.default(tokens, u, kept, lengths, scales)


def flops(batch: int, length: int, per_clip: int, width: int) -> int:
    """Floating point operations of the forward pass; the backward takes one and a half as many."""
    return 4 * batch * length * per_clip * width


def traffic(batch: int, length: int, per_clip: int, width: int, element: int = 4) -> int:
    """Bytes that the forward pass must move at least; `element` is a stored number's."""
    return batch * width * (length * per_clip * element + 4 * length + 4)


def example(
    make: Make,
    batch: int = 1,
    length: int = 4,
    per_clip: int = 2,
    width: int = 8,
    kept: int = 2,
    bounded: bool = True,
    stored: torch.dtype | None = None,
) -> Arguments:
    """Arguments of a call."""
    tokens, scales = make.tokens(batch, length, per_clip, width, stored=stored)
    return {
        "tokens": tokens,
        "u": make.floats(batch, width, dtype=torch.float32),
        "kept": kept,
        "lengths": make.lengths(batch, length, bounded),
        "scales": scales,
    }


_PATCHES = {"batch": 8, "length": 75, "per_clip": 50, "width": 768, "kept": 8}

register(
    Op(
        name="pool_tokens",
        call=pool_tokens,
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
            "kept": range(1, 9),
            "bounded": (True, False),
            "stored": STORES,
        },
        asked=("tokens", "u"),
        launches={"patches": _PATCHES, "patches in int8": {**_PATCHES, "stored": torch.int8}},
        ran_on={"triton": H100},
    )
)
