"""Checks that the arguments of a call belong together, before a kernel takes their pointers.

A kernel trusts what it is given: a wrong shape, dtype or device is foreign memory to it. What these
checks read of a tensor is its description, never its contents, so they wait for no device and pass
through `torch.compile`. Contents are treated where they are read: lengths are clamped into
[0, L] by every kernel, indices are checked on a CPU (`pyramid.check_indices`) and masked on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

# Dtypes that an argument may have. Tuples: what is compiled knows no other sets of dtypes.
FLOAT = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
STORED = (*FLOAT, torch.int8)  # a token store's
LENGTH = (torch.int64, torch.int32)
INDEX = (torch.int64,)
FLAG = (torch.bool,)

LARGEST = 2**31 - 1  # of a dimension: kernels count rows and clips in 32 bits
OPTIONAL = ("lengths", "counts", "scales")  # arguments that may be None
# Dimensions that may be empty: videos, clips, rows, what is picked, spans, ground truths.
EMPTY = "BLMkNG"

Kind = tuple[torch.dtype, ...]
Argument = tuple[str, Kind, Tensor | None]


def check_tensors(op: str, **tensors: Argument) -> None:
    """Raise ValueError unless every tensor has its shape, dtype and device; it names the first.

        check_tensors("select_tokens", tokens=("BLPD", STORED, tokens), u=("BD", FLOAT, u))

    A letter is a dimension of one size wherever it stands, 2 is a size; an OPTIONAL one of
    None fits. All are on the device of the first.
    """
    sizes = {"2": 2}
    device = None
    for name, (dims, kind, tensor) in tensors.items():
        if tensor is None and name in OPTIONAL:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} is a {type(tensor).__name__}, expected a tensor")
        shape = tensor.shape
        if len(shape) != len(dims):
            raise _unfit(op, name, tensors, sizes)
        for dim, size in zip(dims, shape, strict=True):
            if dim not in sizes:
                if size > LARGEST or (size < 1 and dim not in EMPTY):
                    raise _out_of_bounds(op, name, dims, tensor)
                sizes[dim] = size
            elif sizes[dim] != size:
                raise _unfit(op, name, tensors, sizes)
        if tensor.dtype not in kind:
            raise ValueError(f"{op}: {name} is {tensor.dtype}, expected {_either(kind)}")
        if device is None:
            device = tensor.device
        elif tensor.device != device:
            raise ValueError(
                f"{op}: {name} is on {tensor.device} and {next(iter(tensors))} on {device}, "
                "expected one device"
            )


def check_counts(op: str, **counts: tuple[int, int, int]) -> None:
    """Raise ValueError unless every number is an integer of its range; it names the first.

    check_counts("select_tokens", k=(k, 0, MOST_KEPT), segments=(segments, 1, MOST_SEGMENTS))
    """
    for name, (count, least, most) in counts.items():
        if not isinstance(count, (int, np.integer, torch.SymInt)) or not least <= count <= most:
            raise ValueError(
                f"{op}: {name} is {count!r}, expected an integer from {least} to {most}"
            )


def describe(x: object) -> str:
    """An argument in an error: a tensor's shape and dtype, or what is in its place."""
    if isinstance(x, Tensor):
        return f"{list(x.shape)} of {x.dtype}"
    return f"a {type(x).__name__}"


def _either(names: Sequence[object]) -> str:
    return ", ".join(str(name) for name in names[:-1]) + " or " * (len(names) > 1) + str(names[-1])


def _out_of_bounds(op: str, name: str, dims: str, tensor: Tensor) -> ValueError:
    return ValueError(
        f"{op}: {name} is {list(tensor.shape)} of [{', '.join(dims)}], expected every size to be "
        f"at least 1 ({', '.join(EMPTY)} may be 0) and at most {LARGEST}"
    )


def _unfit(
    op: str, name: str, tensors: Mapping[str, Argument], sizes: Mapping[str, int]
) -> ValueError:
    """The error for the tensor `name` beside those before it, which gave the `sizes`."""
    before = list(tensors)[: list(tensors).index(name)]
    given = ((x, tensors[x][2]) for x in before)
    beside = " and ".join(f"{x} {list(y.shape)}" for x, y in given if y is not None)
    dims, _, tensor = tensors[name]
    assert tensor is not None  # what is not given is not checked
    expected = ", ".join(str(sizes.get(dim, dim)) for dim in dims)
    found = f"{op}: {name} is {list(tensor.shape)}, expected [{expected}]"
    return ValueError(f"{found} beside {beside}" if beside else found)
