"""Calls of registered ops with their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from sdst.kernels.registry import Arguments, Op

FROZEN = ("tokens", "scales")


def results(op: Op, call: Arguments, implementation: str) -> list[Tensor]:
    """The results of a call, then the gradients of all float arguments that get one."""
    call, leaves = dict(call), []
    for name, x in call.items():
        if isinstance(x, Tensor) and x.is_floating_point() and name not in FROZEN:
            call[name] = x.detach().requires_grad_()
            leaves.append(call[name])
    torch.manual_seed(0)
    found = op.call(**call, implementation=implementation)
    found = [found] if isinstance(found, Tensor) else list(found)
    total = sum(x.float().sum() for x in found if x.requires_grad)
    if isinstance(total, Tensor):
        found += [x for x in torch.autograd.grad(total, leaves, allow_unused=True) if x is not None]
    return [x.detach() for x in found]
