"""Tokens as a store of int8 keeps them: 8-bit integers and a scale each.

The same numbers, bit for bit, as `sdst.kernels.quantize` gives of tensors; the kernels read them.
"""

from __future__ import annotations

import numpy as np

LARGEST = 127


def quantize(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finite tokens `[..., D]` as values `[..., D]` int8 and scales `[...]` fp32.

    token ~= scale * values, scale = max |token| / 127; a zero token has scale 0.
    """
    wide = tokens.astype(np.float32)
    scales = np.abs(wide).max(-1) / np.float32(LARGEST)
    divisors = np.where(scales > 0, scales, 1)
    return np.rint(wide / divisors[..., None]).astype(np.int8), scales
