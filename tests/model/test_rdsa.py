"""RDSA's products, put together otherwise than its formula says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sdst.model import ModelConfig
from sdst.model.heads import move_relatively
from sdst.model.layers import NeighbourConv
from sdst.model.rdsa import RDSA


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_convolution_is_pytorchs(length: int) -> None:
    conv = NeighbourConv(8)
    x = torch.randn(3, length, 8, requires_grad=True)
    inputs = (x, conv.weight, conv.bias)
    found = conv(x)
    expected = nn.Conv1d.forward(conv, x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    gradients = zip(
        torch.autograd.grad(found, inputs, upstream),
        torch.autograd.grad(expected, inputs, upstream),
        strict=True,
    )
    for mine, theirs in gradients:
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("rows", [1, 500])
def test_offsets_and_scores_are_those_of_the_query(rows: int) -> None:
    reader = RDSA(ModelConfig(video_width=8, text_width=8, width=16, heads=2))
    for linear in (reader.offsets, reader.scores):
        nn.init.normal_(linear.weight)
    ends = torch.randn(rows, 48)
    query = reader.query(ends)
    for found, linear in zip(
        reader.multiply(ends).chunk(2, -1), (reader.offsets, reader.scores), strict=True
    ):
        torch.testing.assert_close(found, linear(query), rtol=1e-4, atol=1e-5)


def test_a_relative_move_has_the_gradients_of_its_formula_within_the_video() -> None:
    generator = torch.Generator().manual_seed(0)
    by = torch.randn(2, 3, 2, generator=generator).mul(0.3).requires_grad_()
    references = torch.rand(2, 3, 2, generator=generator).mul(0.4).add(0.2).requires_grad_()
    (center, width), (shift, growth) = references.unbind(-1), by.unbind(-1)
    wide = 4 * width * (growth - math.log(3)).sigmoid()
    expected = torch.stack((center + shift * width / 2, wide), -1)
    found = move_relatively(by, references)
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(x, (by, references), upstream) for x in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_what_ran_against_an_end_is_led_back() -> None:
    by = torch.tensor([[[9.0, 9.0]]], requires_grad=True)
    moved = move_relatively(by, torch.tensor([[[0.9, 0.9]]]))
    assert (moved == 1).all()
    [grad] = torch.autograd.grad(moved.sum(), by)
    assert grad[0, 0, 0] > 0
