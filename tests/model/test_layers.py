"""The building blocks."""

from __future__ import annotations

import torch

from sdst.model.layers import sum_places, sum_segments, take_rows

REPEATED = torch.tensor([0, 0, 0, 2, 3, 3, 6])  # of 8 rows


def test_rows_are_taken_with_the_gradient_of_index_select() -> None:
    rows = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(take_rows(rows, REPEATED), rows.index_select(0, REPEATED))
    assert torch.autograd.gradcheck(lambda x: take_rows(x, REPEATED), rows)


def test_segments_add_up_as_places_do() -> None:
    """Segments serve a GPU, places a CPU."""
    values = torch.randn(7, 5)
    expected = sum_places(values, REPEATED, 8)
    assert torch.equal(sum_segments(values, REPEATED, 8), expected)
    assert torch.equal(expected[1], torch.zeros(5)), "nobody took it"
