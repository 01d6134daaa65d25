"""The dense stream's parts."""

from __future__ import annotations

import pytest
import torch

from sdst.model.dense import look_around
from sdst.model.layers import SelfAttention, sine_encoding


@pytest.mark.parametrize(("width", "heads"), [(128, 8), (256, 8), (48, 3)])
def test_heads_start_by_looking_at_fixed_distances(width: int, heads: int) -> None:
    attention = SelfAttention(width, heads)
    look_around(attention)
    code = sine_encoding(torch.arange(40) + 0.5, width)
    query, key = attention.query_key(code).view(40, 2, heads, -1).unbind(1)
    logits = torch.einsum("thc,shc->hts", query, key)
    found = [int(logits[head, 20].argmax()) - 20 for head in range(heads)]
    assert found == [0, -1, 1, -2, 2, -4, 4, -8][:heads]
