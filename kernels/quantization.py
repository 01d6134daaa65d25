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


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """What `quantize` was given, [..., D] fp32, up to half a scale in every channel."""
    return values.float() * scales[..., None]
