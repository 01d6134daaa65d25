"""Stores of int8 hold what the kernels' own `quantize` gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sdst import kernels
from sdst.data.store.quantization import quantize


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_bits_are_those_of_the_kernels(dtype: type[np.floating]) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.choice([1e-6, 1e-3, 1.0, 300.0], (2, 5, 4, 1))
    tokens = (rng.standard_normal((2, 5, 4, 33)) * sizes).astype(dtype)
    tokens[0, 0, 0] = 0
    tokens[0, 0, 1] = np.arange(33) - 16.5  # ties, halfway between integers
    values, scales = quantize(tokens)
    expected, expected_scales = kernels.quantize(torch.from_numpy(tokens.astype(np.float32)))
    np.testing.assert_array_equal(values, expected.numpy())
    np.testing.assert_array_equal(scales.view(np.int32), expected_scales.numpy().view(np.int32))


def test_a_zero_token_stays_zero() -> None:
    values, scales = quantize(np.zeros((1, 1, 1, 3), np.float16))
    assert not values.any() and scales == 0
