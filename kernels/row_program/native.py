"""Row programs in C++ (csrc/cpu/row_program.cpp), by ctypes."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sdst.kernels import library
from sdst.kernels.row_program import expressions as ops
from sdst.kernels.row_program.expressions import Rows

# As csrc/cpu/row_program.cpp numbers them.
KINDS = ("Read", "Around", "Code", "Write", "Add", "Linear", "Norm", "Attend", "Ends", "Sample")
FIELDS = (
    *("kind", "out", "a", "b", "width", "inner", "x", "y", "lengths", "weight", "bias"),
    *("heads", "samples", "relu", "bf16"),
)
PANEL = 16  # columns of a product that are computed together; what is narrower is padded

_compute = library.function("sdst_row_program", "pnnpp" + "nn" + "i")


def unsupported_reasons(*tensors: Tensor) -> list[str]:
    """Why the C++ kernel cannot serve these tensors now; empty if it can."""
    factors = products()
    if factors not in (torch.float32, torch.bfloat16):
        return [f"products are {factors} under autocast, only fp32 and bf16 are offered"]
    for tensor in tensors:
        fits = tensor.dtype == torch.float32 or not tensor.is_floating_point()  # or lengths
        if not fits or tensor.device.type != "cpu":
            return [f"a tensor is {tensor.dtype} on {tensor.device}, only fp32 on cpu is offered"]
    missing = library.missing_reason()
    if missing is None and factors == torch.bfloat16 and not library.multiplies_bf16():
        return ["matrix multiplies are bf16 under autocast, which this CPU lacks (AVX512_BF16)"]
    return [] if missing is None else [missing]


def products() -> torch.dtype:
    """The dtype of matrix multiplies now: autocast's, as of PyTorch's own."""
    if not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.get_autocast_dtype("cpu")


class Compiled:
    """A program as the library runs it: places for all values, packed weights, instructions."""

    def __init__(
        self, order: Sequence[Rows], outputs: Mapping[str, Rows], products: torch.dtype
    ) -> None:
        self.products = products
        self.widths = [rows.width for rows in outputs.values()]
        self.names: list[str] = []  # of the tensors that are read
        self._sampled: set[str] = set()  # of them, those whose rows must be neighbours
        self._weights: list[Tensor] = []  # which the instructions point to
        self._places, self._memory = _places(order, outputs)
        self._rounded = self._memory  # the place of a product's factors in bf16, behind all values
        if products == torch.bfloat16:
            factors = (rows.x.width for rows in order if isinstance(rows, ops.Linear))
            self._memory += max(((width + 1) // 2 for width in factors), default=0)
        instructions = [self._instruction(rows) for rows in order]
        for number, rows in enumerate(outputs.values(), len(self.names)):
            write = {"a": self._places[rows], "width": rows.width, "x": number}
            instructions.append({"kind": KINDS.index("Write"), **write})
        numbers = [instruction.get(name, -1) for instruction in instructions for name in FIELDS]
        self._code, self._count = array("q", numbers), len(instructions)

    def run(
        self, batch: int, rows: int, row_lengths: Tensor | None, tensors: Mapping[str, Tensor]
    ) -> list[Tensor]:
        """The outputs, [batch, rows, width] each."""
        outputs = [torch.empty(batch, rows, width) for width in self.widths]
        # The prepared inputs must have a name: what only a pointer refers to may be freed under it.
        inputs = [_prepare(tensors[name], name in self._sampled) for name in self.names]
        valid = library.prepare_lengths(row_lengths)
        table = array("q", [number for x in (*inputs, *outputs) for number in _describe(x)])
        _compute(
            self._code.buffer_info()[0],
            self._count,
            self._memory,
            table.buffer_info()[0],
            *library.pointers(valid),
            batch,
            rows,
            torch.get_num_threads(),
        )
        return outputs

    def _instruction(self, rows: Rows) -> dict[str, int]:
        """An instruction's fields; what is not named is not read."""
        place, tensor = self._places, self._tensor
        fields = {
            "kind": KINDS.index(type(rows).__name__),
            "out": place[rows],
            "width": rows.width,
        }
        match rows:
            case ops.Read() | ops.Around():
                fields |= {"x": tensor(rows.tensor)}
            case ops.Code():
                fields |= {"x": tensor(rows.tensor), "weight": self._keep(rows.frequencies)}
                fields |= {"inner": len(rows.frequencies)}
            case ops.Add():
                fields |= {"a": place[rows.a], "b": place[rows.b]}
            case ops.Linear():
                packed = _pack(rows.weight, by=1 if self.products == torch.float32 else 2)
                fields |= {"a": place[rows.x], "inner": rows.x.width, "relu": rows.relu}
                fields |= {"weight": self._keep(packed, self.products)}
                fields |= {"bias": self._pad(rows.bias)}
                fields |= {"bf16": self.products == torch.bfloat16, "b": self._rounded}
            case ops.Norm():
                fields |= {"a": place[rows.x]}
                fields |= {"weight": self._keep(rows.weight), "bias": self._keep(rows.bias)}
            case ops.Attend():
                fields |= {"a": place[rows.query], "heads": rows.heads}
                fields |= {"x": tensor(rows.keys), "y": tensor(rows.values)}
                if rows.lengths is not None:
                    fields |= {"lengths": tensor(rows.lengths)}
            case ops.Ends() | ops.Sample():
                fields |= {"x": tensor(rows.references), "y": tensor(rows.values)}
                fields |= {"lengths": tensor(rows.lengths)}
                self._sampled.add(rows.values)
                if isinstance(rows, ops.Sample):
                    fields |= {"a": place[rows.offsets], "b": place[rows.logits]}
                    fields |= {"heads": rows.heads, "samples": rows.offsets.width // rows.heads}
        return fields

    def _tensor(self, name: str) -> int:
        """The number of a tensor that is read."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def _keep(self, weight: Tensor, dtype: torch.dtype = torch.float32) -> int:
        """Where a copy of `weight` lies, as long as this program does."""
        self._weights.append(weight.to("cpu", dtype).contiguous().clone())
        return self._weights[-1].data_ptr()

    def _pad(self, bias: Tensor) -> int:
        return self._keep(functional.pad(bias, (0, _padded(len(bias)) - len(bias))))


def _places(order: Sequence[Rows], outputs: Mapping[str, Rows]) -> tuple[dict[Rows, int], int]:
    """Where in a row of memory each value lies, and how long such a row is.

    A value's place is free again after the last one that is made of it.
    """
    last = {source: step for step, rows in enumerate(order) for source in rows.sources()}
    last |= dict.fromkeys(outputs.values(), len(order))
    places: dict[Rows, int] = {}
    live: list[Rows] = []
    memory = 0
    for step, rows in enumerate(order):
        live = [value for value in live if last[value] >= step]
        place = 0
        for value in sorted(live, key=places.__getitem__):
            if place + _padded(rows.width) <= places[value]:
                break
            place = max(place, places[value] + _padded(value.width))
        places[rows] = place
        live.append(rows)
        memory = max(memory, place + _padded(rows.width))
    return places, memory


def _padded(width: int) -> int:
    return -(-width // PANEL) * PANEL


def _pack(weight: Tensor, by: int) -> Tensor:
    """[out, in] -> [panels, in / by, PANEL, by]: the columns that are computed together side by
    side, of each `by` neighbours of what comes in."""
    out, width = weight.shape
    padded = functional.pad(weight, (0, -width % by, 0, _padded(out) - out))
    return padded.unflatten(0, (-1, PANEL)).unflatten(2, (-1, by)).transpose(1, 2)


def _prepare(x: Tensor, sampled: bool) -> Tensor:
    """`x` with contiguous rows, or lengths; what is sampled must have neighbouring rows as well."""
    if x.dim() == 1:
        return library.prepare_lengths(x)
    fits = x.stride(-1) == 1 and (not sampled or x.stride(-2) == x.shape[-1])
    return x if fits else x.contiguous()


def _describe(x: Tensor) -> tuple[int, ...]:
    """A tensor [B, rows, width], or lengths [B], as the library reads it."""
    if x.dim() == 1:
        return x.data_ptr(), 0, 0, 0
    video, row, _ = x.stride()
    return x.data_ptr(), video, row, x.shape[1]
