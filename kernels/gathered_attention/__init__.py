"""Cross-attention to frozen tokens picked by index, without projecting or copying the store."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdst.kernels import dispatch, gpu
from sdst.kernels.gathered_attention import reference

library = torch.library.Library("sdst", "FRAGMENT")
library.define(
    "gathered_attention_forward("
    "Tensor query, Tensor tokens, Tensor indices, Tensor bias, Tensor valid, Tensor? lengths, "
    "int[] strides, float scale) -> Tensor"
)
library.define(
    "gathered_attention_backward("
    "Tensor grad, Tensor query, Tensor tokens, Tensor indices, Tensor bias, Tensor valid, "
    "Tensor? lengths, int[] strides, float scale) -> (Tensor, Tensor)"
)
for name in ("forward", "backward"):
    kernel = gpu.late("sdst.kernels.gathered_attention.triton", name)
    library.impl(f"gathered_attention_{name}", kernel, "CUDA")


@torch.library.register_fake("sdst::gathered_attention_forward")
def _fake_forward(query: Tensor, *keys: object) -> Tensor:
    return query.new_empty(query.shape)


@torch.library.register_fake("sdst::gathered_attention_backward")
def _fake_backward(
    grad: Tensor, query: Tensor, tokens: Tensor, indices: Tensor, bias: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    return query.new_empty(query.shape), bias.new_empty(bias.shape)


def _save(ctx, inputs: tuple, output: Tensor) -> None:
    *tensors, ctx.strides, ctx.scale = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    query, bias = torch.ops.sdst.gathered_attention_backward(
        grad, *ctx.saved_tensors, ctx.strides, ctx.scale
    )
    return query, None, None, bias, None, None, None, None


torch.library.register_autograd(
    "sdst::gathered_attention_forward", _differentiate, setup_context=_save
)


def _not_on_gpu(
    query: Tensor, tokens: Tensor, indices: Tensor, bias: Tensor, valid: Tensor
) -> list[str]:
    return gpu.unsupported_reasons(query=query, tokens=tokens, bias=bias)


dispatch.register("gathered_attention", triton=_not_on_gpu, reference=dispatch.always)


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
    implementation: str = "auto",
) -> Tensor:
    """Attend to the picked tokens of the temporal pyramid, keys and values both the tokens:

        out = sum_j softmax_j(scale <q, x_j> + bias_j) x_j    over the valid j

    The key projection is absorbed in the query (<q, W_k x> = <W_k^T q, x>) and the value projection
    follows on the result, both by the caller, so a frozen token is read as it lies in the store.

    Args:
        query: [B, M, H, D].
        tokens: [B, L, P, D], frozen; gets no gradient.
        indices: [B, k] int64, flat pyramid indices as `select_tokens` gives them.
        bias: [B, k], added to the logits of every query and head.
        valid: [B, k] bool; the others take no part.
        lengths: [B] int64, valid clips of each video; all of L if None.
        strides: of the pyramid's levels, the same as for `select_tokens`.
        scale: of the logits.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        [B, M, H, D] in the query's dtype, accumulated in fp32; 0 for a sample with nothing valid.
        Differentiable with respect to query and bias.
    """
    chosen = dispatch.choose(
        "gathered_attention", implementation, query, tokens, indices, bias, valid
    )
    if chosen == "reference":
        return reference.gathered_attention(
            query, tokens, indices, bias, valid, lengths, strides, scale
        )
    return torch.ops.sdst.gathered_attention_forward(
        query, tokens, indices, bias, valid, lengths, strides, scale
    )
