"""Shared weights learn what they do when every use is differentiated on its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sdst.model.layers import NeighbourConv
from sdst.model.shared import SharedLinear, shared_weights


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(SharedLinear(6, 6), nn.Tanh(), NeighbourConv(6), nn.Tanh()).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)


def apply(net: nn.Module, x: Tensor, times: int = 3) -> Tensor:
    for _ in range(times):
        x = net(x)
    return x


def apply_shared(net: nn.Module, x: Tensor, times: int = 3) -> Tensor:
    with shared_weights(net):
        return apply(net, x, times)


def test_results_and_gradients_are_those_of_single_uses(net, x) -> None:
    found, expected = apply_shared(net, x), apply(net, x)
    assert torch.equal(found, expected)
    inputs, upstream = (x, *net.parameters()), torch.randn_like(found)
    ours, theirs = (torch.autograd.grad(y, inputs, upstream) for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


def test_gradients_are_differences(net, x) -> None:
    weight = net[0].weight
    assert torch.autograd.gradcheck(lambda x, _: apply_shared(net, x), (x, weight))


def test_a_graph_can_be_differentiated_again(net, x) -> None:
    """In parts, too: what one pass leaves is not added to the next."""
    y, inputs = apply_shared(net, x).square().sum(), tuple(net.parameters())
    expected = torch.autograd.grad(apply(net, x).square().sum(), inputs)
    torch.autograd.grad(y, x, retain_graph=True)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(y, inputs, retain_graph=True), expected)


def test_weights_that_are_not_used_or_frozen_get_no_gradient(net, x) -> None:
    net[2].requires_grad_(False)
    unused = SharedLinear(6, 6).double()
    with shared_weights(net, unused):
        apply(net, x).sum().backward()
    assert net[0].weight.grad.any()
    assert net[2].weight.grad is None
    assert unused.weight.grad is None


def test_without_gradients_results_are_the_same(net, x) -> None:
    with torch.no_grad():
        assert torch.equal(apply_shared(net, x), apply(net, x))


def test_autocast_casts_weights_once_and_results_are_its_own(net, x) -> None:
    net, x = net.float(), x.detach().float()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = apply_shared(net, x), apply(net, x)
    assert torch.equal(found, expected)
    assert found.dtype == torch.bfloat16
    upstream, inputs = torch.randn_like(found), tuple(net.parameters())
    ours, theirs = (torch.autograd.grad(y, inputs, upstream) for y in (found, expected))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other, rtol=0.05, atol=0.05)


def test_layers_are_on_their_own_again_afterwards(net, x) -> None:
    with pytest.raises(RuntimeError), shared_weights(net):
        net(x[..., :1])
    assert all(layer._uses is None for layer in (net[0], net[2]))
