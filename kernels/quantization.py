"""The int8 token store: a frozen token as 8-bit integers and one scale.

    token ~= scale * values,   scale = max |token| / 127

Half the memory of fp16. Rounding moves a channel by scale / 2 at most, 1/254 of the
token's greatest channel. The kernels read the integers as they lie; no copy in floats is made.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127


def quantize(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [..., D] as values [..., D] int8 and scales [...] fp32; a zero token has scale 0."""
    wide = tokens.float()
    scales = wide.abs().amax(-1) / LARGEST
    values = torch.where(scales[..., None] > 0, wide / scales[..., None], 0).round()
    return values.to(torch.int8), scales


def check_scales(op: str, tokens: Tensor, scales: Tensor | None) -> None:
    """Raise ValueError unless int8 tokens [..., D], and only these, come with scales [...]."""
    if (tokens.dtype == torch.int8) != (scales is not None):
        raise ValueError(
            f"{op}: tokens are {tokens.dtype} and scales are "
            f"{'missing' if scales is None else 'given'}; int8 tokens, and only these, have scales"
        )
    if scales is not None and scales.shape != tokens.shape[:-1]:
        raise ValueError(
            f"{op}: scales are {list(scales.shape)}, expected {list(tokens.shape[:-1])} "
            f"of tokens {list(tokens.shape)}"
        )


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """What `quantize` was given, [..., D] fp32, up to half a scale in every channel."""
    return values.float() * scales[..., None]
