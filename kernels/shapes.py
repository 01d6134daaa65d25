"""Whether the tensors of a call belong together, told before a kernel takes their pointers."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def check_shapes(op: str, **tensors: tuple[str, Tensor | None]) -> None:
    """Raise ValueError unless every tensor has its shape, the first that does not being named.

        check_shapes("select_tokens", tokens=("BLPD", tokens), u=("BD", u), lengths=("B", lengths))

    A letter is a dimension of one size wherever it stands, 2 is a size; a tensor of None fits.
    """
    sizes = {"2": 2}
    for name, (dims, tensor) in tensors.items():
        if tensor is None:
            continue
        shape = tensor.shape
        if len(shape) != len(dims):
            raise _unfit(op, name, tensors, sizes)
        for dim, size in zip(dims, shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise _unfit(op, name, tensors, sizes)


def _unfit(
    op: str, name: str, tensors: Mapping[str, tuple[str, Tensor | None]], sizes: Mapping[str, int]
) -> ValueError:
    """What is said of the tensor `name` beside those before it, which gave the `sizes`."""
    shapes = {x: list(tensor.shape) for x, (_, tensor) in tensors.items() if tensor is not None}
    expected = ", ".join(str(sizes.get(dim, dim)) for dim in tensors[name][0])
    before = list(shapes)[: list(shapes).index(name)]
    beside = " and ".join(f"{x} {shapes[x]}" for x in before)
    told = f"{op}: {name} is {shapes[name]}, expected [{expected}]"
    return ValueError(f"{told} beside {beside}" if before else told)
