"""Layers that treat every row for itself, run a tile of rows at a time.

Between two products of a small network lie additions, norms and activations whose results are read
once. As operations of their own they cost more than the products when a batch is small. Here they
are written down as an expression over the rows of a batch, compiled once, and run tile by tile:
what lies between two layers never leaves the caches.

    x = read("x", 256)
    program = RowProgram(y=norm(x + linear(x, weight, bias), gain, shift))
    [y] = program.run(batch, rows, x=tensor)  # [batch, rows, 256]

For inference: no gradient passes through.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sdst.kernels import dispatch
from sdst.kernels.row_program import native, reference

OP = "row_program"

dispatch.register(OP, native=native.unsupported_reasons, reference=dispatch.always)


@dataclass(frozen=True)
class Expected:
    """Of a tensor that a program reads: [B], [B, rows, width], or [B, N, width] with any N."""

    width: int = 0
    per_row: bool = False

    def fits(self, tensor: Tensor, batch: int, rows: int) -> bool:
        if self.width == 0:
            return tensor.shape == (batch,) and tensor.dtype == torch.int64
        shape = tensor.shape
        return (
            len(shape) == 3
            and (shape[0], shape[2]) == (batch, self.width)
            and (shape[1] == rows or not self.per_row)
        )

    def describe(self, batch: int, rows: int) -> str:
        if self.width == 0:
            return f"[{batch}] of int64"
        return f"[{batch}, {rows if self.per_row else 'N'}, {self.width}]"


@dataclass(frozen=True, eq=False)
class Rows:
    """An expression: `width` numbers for every row of every video."""

    width: int

    def __add__(self, other: Rows) -> Rows:
        if self.width != other.width:
            raise ValueError(f"row_program: sum of rows of {self.width} and {other.width} numbers")
        return Add(self.width, self, other)

    def sources(self) -> list[Rows]:
        """The expressions that it is made of."""
        values = (getattr(self, field.name) for field in fields(self))
        return [value for value in values if isinstance(value, Rows)]

    def tensors(self) -> dict[str, Expected]:
        """The tensors that it reads."""
        return {}


@dataclass(frozen=True, eq=False)
class Read(Rows):
    tensor: str

    def tensors(self) -> dict[str, Expected]:
        return {self.tensor: Expected(self.width, per_row=True)}


@dataclass(frozen=True, eq=False)
class Around(Rows):
    tensor: str

    def tensors(self) -> dict[str, Expected]:
        return {self.tensor: Expected(self.width // 3, per_row=True)}


@dataclass(frozen=True, eq=False)
class Code(Rows):
    tensor: str
    frequencies: Tensor

    def tensors(self) -> dict[str, Expected]:
        numbers = self.width // (2 * len(self.frequencies))
        return {self.tensor: Expected(numbers, per_row=True)}


@dataclass(frozen=True, eq=False)
class Add(Rows):
    a: Rows
    b: Rows


@dataclass(frozen=True, eq=False)
class Linear(Rows):
    x: Rows
    weight: Tensor
    bias: Tensor
    relu: bool


@dataclass(frozen=True, eq=False)
class Norm(Rows):
    x: Rows
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Attend(Rows):
    query: Rows
    keys: str
    values: str
    lengths: str | None
    heads: int

    def tensors(self) -> dict[str, Expected]:
        lengths = {} if self.lengths is None else {self.lengths: Expected()}
        return {self.keys: Expected(self.width), self.values: Expected(self.width), **lengths}


@dataclass(frozen=True, eq=False)
class Ends(Rows):
    references: str
    values: str
    lengths: str

    def tensors(self) -> dict[str, Expected]:
        return {
            self.references: Expected(2, per_row=True),
            self.values: Expected(self.width // 3),
            self.lengths: Expected(),
        }


@dataclass(frozen=True, eq=False)
class Sample(Rows):
    offsets: Rows
    logits: Rows
    references: str
    values: str
    lengths: str
    heads: int

    def tensors(self) -> dict[str, Expected]:
        return {
            self.references: Expected(2, per_row=True),
            self.values: Expected(self.width),
            self.lengths: Expected(),
        }


def read(tensor: str, width: int) -> Rows:
    """The rows of a tensor [B, rows, width]."""
    return Read(width, tensor)


def around(tensor: str, width: int) -> Rows:
    """Each row of a tensor [B, rows, width] between its neighbours, [3 width]; 0 at the ends."""
    return Around(3 * width, tensor)


def code(tensor: str, numbers: int, frequencies: Tensor) -> Rows:
    """Sines, then cosines, of each number of a row of a tensor [B, rows, numbers] times each of
    the frequencies [n], [2 n numbers]."""
    return Code(2 * len(frequencies) * numbers, tensor, frequencies)


def linear(x: Rows, weight: Tensor, bias: Tensor, relu: bool = False) -> Rows:
    """x W^T + b, and max(0, .) of it if `relu`; weight [out, in], bias [out]."""
    if weight.shape[1] != x.width:
        raise ValueError(f"row_program: weight {list(weight.shape)} on rows of {x.width}")
    return Linear(len(weight), x, weight.detach(), bias.detach(), relu)


def norm(x: Rows, weight: Tensor, bias: Tensor) -> Rows:
    """Layer norm with an epsilon of 1e-5, then times weight plus bias, [width] both."""
    return Norm(x.width, x, weight.detach(), bias.detach())


def attend(query: Rows, keys: str, values: str, lengths: str | None, heads: int) -> Rows:
    """Multi-head attention to tensors [B, N, width], of which `lengths` [B] are valid (or all)."""
    return Attend(query.width, query, keys, values, lengths, heads)


def ends(references: str, values: str, lengths: str, width: int) -> Rows:
    """Values [B, N, width] at a reference's left end, centre and right end, [3 width].

    References [B, rows, 2] are (center, width) in units of the valid length; ends stay within it.
    """
    return Ends(3 * width, references, values, lengths)


def sample(
    offsets: Rows, logits: Rows, references: str, values: str, lengths: str, heads: int, width: int
) -> Rows:
    """`deformable_attention` to values [B, N, width] around references [B, rows, 2]."""
    return Sample(width, offsets, logits, references, values, lengths, heads)


class RowProgram:
    """Expressions over the rows of a batch, to be evaluated together.

    Args:
        outputs: what is wanted, by name.
    """

    def __init__(self, **outputs: Rows) -> None:
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
        self._expected = {k: v for rows in self.order for k, v in rows.tensors().items()}
        self._attended = [(x.keys, x.values) for x in self.order if isinstance(x, Attend)]
        self._compiled: native.Compiled | None = None

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
            row_lengths: [B] int64, the valid ones; None where all are. What lies beyond is not
                read.
            implementation: see `sdst.kernels.dispatch`.
            tensors: fp32 [B, N, width], or int64 [B] where the program says lengths, by the names
                that the program reads them by. A stride of 0 repeats one video.

        Returns:
            fp32; 0 beyond `row_lengths`.

        Raises:
            ValueError: a tensor is missing or has another shape than the program reads.
            ImplementationError: the implementation asked for does not fit the call.
        """
        for name, expected in self._expected.items():
            if name not in tensors:
                raise ValueError(f"row_program: no tensor {name!r} among {sorted(tensors)}")
            if not expected.fits(tensors[name], batch, rows):
                raise ValueError(
                    f"row_program: {name} is {list(tensors[name].shape)} of "
                    f"{tensors[name].dtype}, expected {expected.describe(batch, rows)}"
                )
        for keys, values in self._attended:
            if tensors[keys].shape != tensors[values].shape:
                raise ValueError(
                    f"row_program: {keys} {list(tensors[keys].shape)} and {values} "
                    f"{list(tensors[values].shape)}, expected as many of both"
                )
        floating = [x for x in tensors.values() if x.dtype != torch.int64]
        if dispatch.choose(OP, implementation, *floating) == "reference":
            return reference.run(self, batch, rows, row_lengths, tensors)
        if self._compiled is None:
            self._compiled = native.Compiled(self.order, self.outputs)
        return self._compiled.run(batch, rows, row_lengths, tensors)

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

    def bytes(self) -> int:
        """Of all weights, which are read once a tile."""
        return 4 * sum(
            node.weight.numel() + node.bias.numel()
            for node in self.order
            if isinstance(node, (Linear, Norm))
        )
