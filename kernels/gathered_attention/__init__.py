"""Cross-attention to frozen tokens picked by index, without projecting or copying the store."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.gathered_attention import reference

dispatch.register("gathered_attention", reference=dispatch.always)


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
    dispatch.choose("gathered_attention", implementation, query, tokens, indices, bias, valid)
    return reference.gathered_attention(
        query, tokens, indices, bias, valid, lengths, strides, scale
    )
