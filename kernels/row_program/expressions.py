"""Expressions over the rows of a batch, which row programs are written in."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sdst.kernels.shapes import FLOAT, LARGEST, check_counts


@dataclass(frozen=True)
class Expected:
    """Of a tensor that a program reads: [B], [B, rows, width], or [B, N, width] with any N."""

    width: int = 0
    per_row: bool = False

    def fits(self, tensor: Tensor, batch: int, rows: int) -> bool:
        if not isinstance(tensor, Tensor):
            return False
        if self.width == 0:
            return tensor.shape == (batch,) and tensor.dtype == torch.int64
        shape = tensor.shape
        return (
            len(shape) == 3
            and tensor.dtype in FLOAT
            and max(shape) <= LARGEST
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

    def __post_init__(self) -> None:
        check_counts("row_program", width=(self.width, 1, LARGEST))

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
    _check_weights(frequencies=frequencies)
    check_counts("row_program", numbers=(numbers, 1, LARGEST))
    if frequencies.dim() != 1:
        raise ValueError(f"row_program: frequencies {list(frequencies.shape)}, expected [n]")
    return Code(2 * len(frequencies) * numbers, tensor, frequencies)


def linear(x: Rows, weight: Tensor, bias: Tensor, relu: bool = False) -> Rows:
    """x W^T + b, and max(0, .) of it if `relu`; weight [out, in], bias [out]."""
    _check_weights(weight=weight, bias=bias)
    if weight.shape[1:] != (x.width,) or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"row_program: weight {list(weight.shape)} and bias {list(bias.shape)}, "
            f"expected [out, {x.width}] and [out]"
        )
    return Linear(len(weight), x, weight.detach(), bias.detach(), relu)


def norm(x: Rows, weight: Tensor, bias: Tensor) -> Rows:
    """Layer norm with an epsilon of 1e-5, then times weight plus bias, [width] both."""
    _check_weights(weight=weight, bias=bias)
    if not weight.shape == bias.shape == (x.width,):
        raise ValueError(
            f"row_program: weight {list(weight.shape)} and bias {list(bias.shape)}, "
            f"expected [{x.width}] and [{x.width}]"
        )
    return Norm(x.width, x, weight.detach(), bias.detach())


def attend(query: Rows, keys: str, values: str, lengths: str | None, heads: int) -> Rows:
    """Multi-head attention to tensors [B, N, width], of which `lengths` [B] are valid (or all)."""
    _check_heads(query.width, heads)
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
    if offsets.width != logits.width:
        raise ValueError(
            f"row_program: offsets of {offsets.width} and logits of {logits.width} numbers, "
            "expected as many of both"
        )
    _check_heads(width, heads)
    _check_heads(offsets.width, heads)
    return Sample(width, offsets, logits, references, values, lengths, heads)


def _check_weights(**weights: Tensor) -> None:
    for name, weight in weights.items():
        if not isinstance(weight, Tensor):
            raise TypeError(f"row_program: {name} is a {type(weight).__name__}, expected a tensor")
        if weight.dtype not in FLOAT or weight.numel() == 0:
            raise ValueError(
                f"row_program: {name} is {list(weight.shape)} of {weight.dtype}, expected floats, "
                "at least one"
            )


def _check_heads(width: int, heads: int) -> None:
    if not isinstance(heads, int) or heads < 1 or width % heads:
        raise ValueError(
            f"row_program: rows of {width} numbers in {heads} heads, expected as many in each"
        )
