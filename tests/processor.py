"""Instructions that only some processors have."""

from __future__ import annotations

import pytest

from sdst.kernels import library

needs_bf16 = pytest.mark.skipif(
    not library.multiplies_bf16(),
    reason="this CPU has no bf16 matrix multiplies (AVX512_BF16), or the library was not built",
)
