"""Row programs in PyTorch, one operation after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels.deformable_attention.reference import deformable_attention
from sdst.kernels.row_program import expressions as ops
from sdst.kernels.row_program import native
from sdst.kernels.row_program.expressions import Rows

if TYPE_CHECKING:
    from sdst.kernels.row_program import RowProgram


def run(
    program: RowProgram,
    batch: int,
    rows: int,
    row_lengths: Tensor | None,
    tensors: Mapping[str, Tensor],
) -> list[Tensor]:
    """The outputs of `program`, [batch, rows, width] each."""
    if row_lengths is None:
        row_lengths = torch.full((batch,), rows)
    real = torch.arange(rows) < row_lengths[:, None]
    tensors = {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
    values: dict[Rows, Tensor] = {}
    products = native.products()
    with torch.autocast("cpu", enabled=False):
        for node in program.order:
            values[node] = _evaluate(node, values, tensors, real, products)
    return [values[node].masked_fill(~real[..., None], 0.0) for node in program.outputs.values()]


def _evaluate(
    node: Rows,
    values: Mapping[Rows, Tensor],
    tensors: Mapping[str, Tensor],
    real: Tensor,
    products: torch.dtype,
) -> Tensor:
    """One expression [B, rows, width], those that it is made of being known."""
    match node:
        case ops.Read():
            return tensors[node.tensor]
        case ops.Around():
            x = tensors[node.tensor].masked_fill(~real[..., None], 0.0)
            padded = functional.pad(x, (0, 0, 1, 1))
            return torch.cat([padded[:, i : i + x.shape[1]] for i in range(3)], -1)
        case ops.Code():
            angle = tensors[node.tensor][..., None] * node.frequencies.float()
            return torch.cat((angle.sin(), angle.cos()), -1).flatten(-2)
        case ops.Add():
            return values[node.a] + values[node.b]
        case ops.Linear():
            x, weight = (x.to(products).float() for x in (values[node.x], node.weight))
            y = functional.linear(x, weight, node.bias.float())
            return y.relu() if node.relu else y
        case ops.Norm():
            weight, bias = node.weight.float(), node.bias.float()
            return functional.layer_norm(values[node.x], (node.width,), weight, bias)
        case ops.Attend():
            lengths = None if node.lengths is None else tensors[node.lengths]
            return _attend(
                values[node.query], tensors[node.keys], tensors[node.values], lengths, node.heads
            )
        case ops.Ends():
            source, lengths = tensors[node.values], tensors[node.lengths]
            center, width = tensors[node.references].unbind(-1)
            points = torch.stack((center - width / 2, center, center + width / 2), -1).clamp(0, 1)
            points = functional.pad(points.flatten(1)[..., None], (0, 1))
            zeros = points.new_zeros(*points.shape[:2], 1, 1)
            sampled = deformable_attention(source[:, :, None], points, zeros, zeros, lengths)
            return sampled.reshape(*center.shape, node.width)
        case ops.Sample():
            source = tensors[node.values].unflatten(-1, (node.heads, -1))
            offsets, logits = (
                values[x].unflatten(-1, (node.heads, -1)) for x in (node.offsets, node.logits)
            )
            references, lengths = tensors[node.references], tensors[node.lengths]
            return deformable_attention(source, references, offsets, logits, lengths).flatten(2)
    raise TypeError(f"row_program: {type(node).__name__} is no expression")


def _attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(C)) v over the valid keys, 0 where there are none."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, N, C]
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if lengths is not None:
        beyond = torch.arange(k.shape[2]) >= lengths[:, None]
        logits = logits.masked_fill(beyond[:, None, None], -torch.inf)
        v = v.masked_fill(beyond[:, None, :, None], 0.0)
    return (logits.softmax(-1).nan_to_num() @ v).transpose(1, 2).flatten(2)
