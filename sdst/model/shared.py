"""Weights that one forward pass applies several times, as the recurrence does its blocks'.

Autograd differentiates every use on its own: a gradient of weight and bias, added to those of the
uses before, and of weights that are made of others or cast for autocast all that, too. Here weights
are made and cast once, and every use adds to one gradient where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_add_each, _copy_each = torch.ops.aten._foreach_add_.List, torch.ops.aten._foreach_copy_


class SharedWeight(nn.Module):
    """Base of a layer with one weight, which `shared_weights` shares among its uses."""

    _uses: _Uses | None = None

    def as_linear(self) -> tuple[Tensor, Tensor]:
        """Weight [M, N] and bias [M]."""
        raise NotImplementedError

    def multiply(self, x: Tensor) -> Tensor:
        """[..., N] -> [..., M]."""
        if torch.compiler.is_compiling() or (uses := self._uses) is None:
            return functional.linear(x, *self.as_linear())
        return uses(x)


class SharedLinear(SharedWeight, nn.Linear):
    """`nn.Linear` with a bias."""

    def as_linear(self) -> tuple[Tensor, Tensor]:
        return self.weight, self.bias

    def forward(self, input: Tensor) -> Tensor:
        return self.multiply(input)


@contextmanager
def shared_weights(*modules: nn.Module) -> Iterator[None]:
    """Within, the layers of `modules` share their weights among all uses, which must not change.

    Under `torch.compile` nothing is shared: it sees all uses by itself.
    """
    if torch.compiler.is_compiling():
        yield
        return
    layers = [x for module in modules for x in module.modules() if isinstance(x, SharedWeight)]
    uses = share(layers)
    try:
        for layer, its in zip(layers, uses, strict=True):
            layer._uses = its
        yield
    finally:
        for layer in layers:
            layer._uses = None


def share(layers: Sequence[SharedWeight]) -> list[_Uses]:
    """Applications of each layer's weight, made in its own dtype and cast as under autocast."""
    if not layers:
        return []
    device, dtype = next(layers[0].parameters()).device.type, None
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        tensors = [tensor for layer in layers for tensor in layer.as_linear()]
    gradients = [_Gradient() for _ in layers]
    given = _Give.apply(gradients, dtype, *tensors)
    weights, biases = given[::2], given[1::2]
    return [_Uses(*its) for its in zip(weights, biases, gradients, strict=True)]


class _Gradient:
    """Of a weight and its bias, as far as the uses have been differentiated."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.weight: Tensor | None = None
        self.biases: list[Tensor] = []  # of each use
        self.backward: int | None = None  # the backward pass that these are of

    def add(self, x: Tensor, grad: Tensor) -> None:
        """Of one use, of x [..., N], with respect to its result [..., M]."""
        now = torch._C._current_graph_task_id()
        if self.backward != now:  # an earlier one needed no weights and left its own
            self.clear()
            self.backward = now
        rows, upstream = x.flatten(0, -2), grad.flatten(0, -2)
        if self.weight is None:
            self.weight = upstream.mT @ rows
        else:
            self.weight.addmm_(upstream.mT, rows)
        self.biases.append(upstream.sum(0))


class _Uses:
    """Applies a weight and its bias."""

    def __init__(self, weight: Tensor, bias: Tensor, gradient: _Gradient) -> None:
        self.weight, self.bias, self.gradient = weight, bias, gradient

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return _Use.apply(x, self.weight, self.bias, self.gradient)
        return functional.linear(x, self.weight, self.bias)


class _Use(torch.autograd.Function):
    """x W^T + b; what weight and bias learn of it goes to their `_Gradient`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, gradient: _Gradient) -> Tensor:
        ctx.gradient, ctx.dtype = gradient, x.dtype
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *grads: Tensor
    ) -> tuple[Tensor | None, ...]:
        [grad], [x, weight] = grads, ctx.saved_tensors
        by_x, by_weight, *_ = ctx.needs_input_grad
        if by_weight:
            ctx.gradient.add(x, grad)
        return (grad @ weight).to(ctx.dtype) if by_x else None, None, None, None


class _Give(torch.autograd.Function):
    """Weights and biases in turn, in `dtype` if there is one; backwards what their uses add up to.

    Autograd comes here after the last use, though the uses hand no gradient on.
    """

    @staticmethod
    def forward(
        ctx, gradients: list[_Gradient], dtype: torch.dtype | None, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.gradients, ctx.dtypes = gradients, [x.dtype for x in tensors]
        ctx.set_materialize_grads(False)
        return _cast(tensors, [dtype or x.dtype for x in tensors])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx, *_: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        used = [gradient for gradient in ctx.gradients if gradient.weight is not None]
        for use in range(1, max((len(x.biases) for x in used), default=0)):
            more = [x.biases for x in used if len(x.biases) > use]
            _add_each([x[0] for x in more], [x[use] for x in more])
        found: list[Tensor | None] = []
        for gradient in ctx.gradients:
            found += [gradient.weight, gradient.biases[0] if gradient.biases else None]
            gradient.clear()
        there = [i for i, x in enumerate(found) if x is not None]
        summed = _cast([x for x in found if x is not None], [ctx.dtypes[i] for i in there])
        for i, x in zip(there, summed, strict=True):
            found[i] = x
        return None, None, *found


def _cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> tuple[Tensor, ...]:
    """Each in its dtype, by one launch; those that have it as they are."""
    pairs = zip(tensors, dtypes, strict=True)
    cast = [x if x.dtype == dtype else torch.empty_like(x, dtype=dtype) for x, dtype in pairs]
    changed = [(y, x) for y, x in zip(cast, tensors, strict=True) if y is not x]
    if changed:
        _copy_each([y for y, _ in changed], [x for _, x in changed])
    return tuple(cast)
