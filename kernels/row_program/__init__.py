"""Row-wise layers, run a tile of rows at a time.

Between two matrix multiplies of a small network are additions, norms and activations whose results
are read once. As operations of their own they cost more than the matrix multiplies when a batch is
small. Here they are an expression over the rows of a batch, compiled once and run tile by tile:
intermediate results stay in cache.

    from sdst.kernels.row_program import RowProgram, linear, norm, read

    x = read("x", 256)
    program = RowProgram(y=norm(x + linear(x, weight, bias), gain, shift))
    [y] = program.run(batch, rows, x=tensor)  # [batch, rows, 256]

For inference: no gradient passes through. Under autocast the factors of linear layers are rounded
to its dtype; sums and all other values stay fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.examples import ANY, Make
from sdst.kernels.registry import Arguments, Op, always, register
from sdst.kernels.row_program import native, reference
from sdst.kernels.row_program.expressions import (
    Attend,
    Linear,
    Norm,
    Rows,
    Sample,
    around,
    attend,
    code,
    ends,
    linear,
    norm,
    read,
    sample,
)
from sdst.kernels.shapes import LARGEST, LENGTH, check_counts, check_tensors, describe

__all__ = [
    "OP",
    "RowProgram",
    "Rows",
    "around",
    "attend",
    "code",
    "ends",
    "linear",
    "norm",
    "read",
    "sample",
]

OP = "row_program"


class RowProgram:
    """Expressions over the rows of a batch, to be evaluated together.

    Args:
        outputs: the expressions to evaluate, by name.
    """

    def __init__(self, **outputs: Rows) -> None:
        if not outputs:
            raise ValueError("row_program: no outputs, expected at least one expression by name")
        self.outputs = outputs
        self.order: list[Rows] = []  # every expression after those that it is made of
        seen: set[Rows] = set()

        def visit(rows: Rows) -> None:
            if rows not in seen:
                seen.add(rows)
                for source in rows.sources():
                    visit(source)
                self.order.append(rows)

        for rows in outputs.values():
            visit(rows)
        expected = (item for rows in self.order for item in rows.tensors().items())
        self._expected = list(dict.fromkeys(expected))  # of a tensor by all that read it
        self._attended = [(x.keys, x.values) for x in self.order if isinstance(x, Attend)]
        self._compiled: dict[torch.dtype, native.Compiled] = {}

    def run(
        self,
        batch: int,
        rows: int,
        row_lengths: Tensor | None = None,
        *,
        implementation: str = "auto",
        **tensors: Tensor,
    ) -> list[Tensor]:
        """The outputs, each [batch, rows, width], in their order.

        Args:
            batch: B, videos.
            rows: of every video.
            row_lengths: [B] int64, the valid ones, clamped into [0, rows]; None where all are. What
                lies beyond is not read.
            implementation: see `sdst.kernels.dispatch`.
            tensors: fp32 [B, N, width], or int64 [B] where the program says lengths, by the names
                that the program reads them by. A stride of 0 repeats one video.

        Returns:
            fp32; 0 beyond `row_lengths`.

        Raises:
            ValueError: a tensor is missing or has another shape or dtype than the program reads.
            ImplementationError: the requested implementation does not fit the call.
        """
        check_counts(OP, batch=(batch, 0, LARGEST), rows=(rows, 0, LARGEST))
        for name, expected in self._expected:
            if name not in tensors:
                raise ValueError(f"row_program: no tensor {name!r} among {sorted(tensors)}")
            if not expected.fits(tensors[name], batch, rows):
                raise ValueError(
                    f"row_program: {name} is {describe(tensors[name])}, "
                    f"expected {expected.describe(batch, rows)}"
                )
        for keys, values in self._attended:
            if tensors[keys].shape != tensors[values].shape:
                raise ValueError(
                    f"row_program: {keys} {list(tensors[keys].shape)} and {values} "
                    f"{list(tensors[values].shape)}, expected as many of both"
                )
        if row_lengths is not None:
            check_tensors(OP, row_lengths=("B", LENGTH, row_lengths))
            if len(row_lengths) != batch:
                raise ValueError(f"{OP}: row_lengths is [{len(row_lengths)}], expected [{batch}]")
        lengths = () if row_lengths is None else (row_lengths,)
        if dispatch.choose(OP, implementation, *tensors.values(), *lengths) == "reference":
            return reference.run(self, batch, rows, row_lengths, tensors)
        products = native.products()
        if products not in self._compiled:
            self._compiled[products] = native.Compiled(self.order, self.outputs, products)
        return self._compiled[products].run(batch, rows, row_lengths, tensors)

    def flops(self, batch: int, rows: int, **attended: int) -> int:
        """Of all products, a multiply-add counted as two.

        Args:
            attended: how many rows of a video the tensors that are attended to have, by the name
                of the keys.
        """
        per_row = 0
        for node in self.order:
            if isinstance(node, Linear):
                per_row += 2 * node.weight.numel()
            elif isinstance(node, Attend):
                per_row += 4 * node.width * attended[node.keys]
            elif isinstance(node, Sample):
                per_row += 4 * node.width * (node.offsets.width // node.heads)
        return batch * rows * per_row

    def traffic(self) -> int:
        """Of all weights, which are read once a tile, as autocast now has them."""
        total = 0
        for node in self.order:
            if isinstance(node, Linear):
                total += native.products().itemsize * node.weight.numel() + 4 * node.bias.numel()
            elif isinstance(node, Norm):
                total += 4 * (node.weight.numel() + node.bias.numel())
        return total


def example(
    make: Make, batch: int = 1, rows: int = 4, keys: int = 4, heads: int = 2, bounded: bool = True
) -> Arguments:
    """Arguments of `evaluate_every_kind`."""
    width = 8
    return {
        "batch": batch,
        "rows": rows,
        "heads": heads,
        "row_lengths": make.lengths(batch, rows, bounded),
        "weight": make.floats(width, width),
        "bias": make.floats(width),
        "x": make.floats(batch, rows, width),
        "references": make.floats(batch, rows, 2),
        "k": make.floats(batch, keys, width),
        "v": make.floats(batch, keys, width),
        "words": make.integers(keys + 1, batch),
    }


@torch.no_grad()
def evaluate_every_kind(weight: Tensor, bias: Tensor, heads: int, **call: Any) -> list[Tensor]:
    """Run a program with every kind of expression; `call` is what `RowProgram.run` takes."""
    x = read("x", 8)
    x = norm(x + linear(x, weight, bias, relu=True), bias, bias)
    program = RowProgram(
        attended=attend(x, "k", "v", "words", heads),
        ends=ends("references", "v", "words", 8),
        sampled=sample(x, x, "references", "v", "words", heads, 8),
        around=around("x", 8),
        code=code("references", 2, torch.tensor([1.0, 2.0])),
    )
    return program.run(**call)


register(
    Op(
        name=OP,
        call=evaluate_every_kind,
        implementations={"native": native.unsupported_reasons, "reference": always},
        example=example,
        choices={
            **dict.fromkeys(("batch", "rows", "keys"), ANY),
            "heads": (1, 2, 8),
            "bounded": (True, False),
        },
        asked=("x",),
    )
)
