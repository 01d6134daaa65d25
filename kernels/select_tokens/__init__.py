"""Selection of the frozen tokens that matter for a sentence, at several temporal resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.select_tokens import reference

dispatch.register("select_tokens", reference=dispatch.always)


def select_tokens(
    tokens: Tensor,
    u: Tensor,
    k: int,
    lengths: Tensor | None = None,
    *,
    strides: Sequence[int] = (1, 2, 4, 8),
    segments: int = 4,
    implementation: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Score every token of the temporal pyramid against a direction and keep the k best.

    score(x) = <x, u>. The budget k is split evenly over the resolutions and, within one, over
    equal segments of the valid length (remainders go to the first ones), so that what is kept
    covers the whole video; a token belongs to the segment its first clip lies in. What a group
    cannot fill goes to the best remaining tokens of all. Of equal scores the lower index wins.

    Args:
        tokens: [B, L, P, D], frozen; gets no gradient.
        u: [B, D].
        k: tokens to keep.
        lengths: [B] int64, valid clips of each video; all of L if None.
        strides: of the pyramid's levels; level r holds ceil(L / stride) steps of P tokens, each the
            mean over the valid clips of its window.
        segments: of time, per resolution.
        implementation: see `sdst.kernels.dispatch`.

    Returns:
        indices [B, k] int64, flat into the levels in the order of `strides`
        (offset_r + t * P + p); scores [B, k] fp32, best first, differentiable with respect to u;
        valid [B, k] bool. Where there are fewer than k tokens: index 0, score 0, valid False.
    """
    dispatch.choose("select_tokens", implementation, tokens, u, k, lengths)
    return reference.select_tokens(tokens, u, k, lengths, strides, segments)
