"""The int8 token store: a frozen token as 8-bit integers and one scale.

    token ~= scale * values,   scale = max |token| / 127

Half the memory of fp16. Rounding moves a channel by scale / 2 at most, 1/254 of the token's
greatest channel. The kernels read the integers in their stored format, without a float copy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels.shapes import FLOAT

LARGEST = 127


def quantize(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [..., D] as values [..., D] int8 and scales [...] fp32; a zero token has scale 0.

    A token that is not finite gets a scale that is not, so that it stays NaN.
    """
    if not isinstance(tokens, Tensor):
        raise TypeError(f"quantize: tokens are a {type(tokens).__name__}, expected a tensor")
    if tokens.dtype not in FLOAT or tokens.dim() == 0 or tokens.shape[-1] == 0:
        raise ValueError(
            f"quantize: tokens are {list(tokens.shape)} of {tokens.dtype}, expected floats "
            "[..., D] with D at least 1"
        )
    wide = tokens.float()
    scales = wide.abs().amax(-1) / LARGEST
    usable = (scales > 0) & scales.isfinite()
    values = torch.where(usable[..., None], wide / scales[..., None], 0).round()
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
    """The inverse of `quantize`, [..., D] fp32, up to half a scale in every channel."""
    if values.dtype != torch.int8 or scales.dtype not in FLOAT:
        raise ValueError(
            f"dequantize: values are {values.dtype} and scales {scales.dtype}, expected int8 and "
            "floats"
        )
    check_scales("dequantize", values, scales)
    return values.float() * scales[..., None]
