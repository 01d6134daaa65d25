"""Hostile calls of every op: `python -m tests.faults.kernels [--calls 3000] [--seed 0]`.

A call has good arguments of random shapes, some of which are then spoilt: another dtype, shape or
device, foreign indices and lengths, numbers that are not finite, sizes out of range. It must either
be refused in one line, by the C++ kernel and by the reference, or give the same from both. The
kernels run under the address sanitizer, so that a byte read or written beyond a tensor ends it.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sdst.kernels import (
    ImplementationError,
    NonFiniteCostError,
    cross_attention,
    dequantize,
    library,
    quantize,
)
from sdst.kernels.dropout import native as dropout
from sdst.kernels.examples import ANY, SOME, Make
from sdst.kernels.registry import OPS, Arguments, Op, always
from tests.kernels.calls import results

# NotImplementedError is PyTorch's, of tensors without contents.
REFUSALS = (ValueError, TypeError, ImplementationError, NonFiniteCostError, NotImplementedError)
INTEGERS = (-(2**63), -(2**62), -(2**31), -1, 0, 1, 2**31, 2**40, 2**62, 2**63 - 1)
FLOATS = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-40)
DTYPES = (torch.float64, torch.float16, torch.int32, torch.int8, torch.bool, torch.complex64)


def cross_example(
    make: Make, batch: int, queries: int, length: int, heads: int, channels: int, bounded: bool
) -> Arguments:
    return {
        "q": make.floats(batch, queries, heads, channels),
        **{name: make.floats(batch, length, heads, channels) for name in "kv"},
        "lengths": make.lengths(batch, length, bounded),
    }


def quantize_and_back(tokens: Tensor, implementation: str) -> Tensor:
    return dequantize(*quantize(tokens))


# Public functions beside those that an op is named after.
OTHERS = (
    replace(
        OPS["dense_attention"],
        name="cross_attention",
        call=cross_attention,
        example=cross_example,
        choices={
            **dict.fromkeys(("batch", "queries", "length"), ANY),
            **{"heads": SOME, "channels": range(1, 10), "bounded": (True, False)},
        },
    ),
    Op(
        name="quantize",
        call=quantize_and_back,
        implementations={"native": always, "reference": always},
        example=lambda make, rows, width: {"tokens": make.floats(rows, width)},
        choices={"rows": ANY, "width": range(1, 10)},
        asked=("tokens",),
    ),
)


def good_call(op: Op, draw: random.Random) -> Arguments:
    """Arguments of a call in random ones of the shapes that `op` names."""
    make = Make(seed=draw.randrange(2**31))
    return op.example(make, **{name: draw.choice(list(x)) for name, x in op.choices.items()})


def spoil(draw: random.Random, call: Arguments) -> str:
    """Make one argument hostile, in place; says what was done."""
    name = draw.choice(list(call))
    value = call[name]
    if isinstance(value, Tensor) and value.device.type != "meta":
        kind = draw.choice(["values", "values", "values", "dtype", "shape", "other", "view"])
        call[name] = _spoilt(draw, value, kind)
        return f"{name}: {kind}"
    if isinstance(value, tuple):
        call[name] = draw.choice([(), (0,), (2**62, 1), (-1, 2), (1.5,), (2**64,), None])
    elif isinstance(value, float):
        call[name] = draw.choice([*FLOATS, -1.0, 1.0])
    else:
        call[name] = draw.choice([*INTEGERS, math.nan, 1.5, "x", None])
    return f"{name}: {call[name]!r}"


def _spoilt(draw: random.Random, x: Tensor, kind: str) -> object:
    if kind == "dtype":
        return x.to(draw.choice(DTYPES))
    if kind == "shape":
        return draw.choice([x[..., :-1], x[:-1], x[None], x.flatten(), x.unsqueeze(-1)])
    if kind == "view":  # good: the same numbers, elsewhere in memory
        return torch.stack((x, x), -1)[..., 0] if x.dim() else x
    if kind == "other":
        return draw.choice([x.to("meta"), x.tolist(), None])
    x = x.clone()
    choices = FLOATS if x.is_floating_point() else INTEGERS
    for place in torch.randint(max(x.numel(), 1), (draw.randint(1, 3),)).tolist():
        if x.numel() and not x.dtype.is_complex and x.dtype != torch.bool:
            value = draw.choice(choices)
            info = None if x.is_floating_point() else torch.iinfo(x.dtype)
            x.view(-1)[place] = value if info is None else max(info.min, min(value, info.max))
    return x


def outcome(op: Op, call: Arguments, implementation: str) -> object:
    """The result of the call, with the gradients where it has some, or the refusal."""
    try:
        return results(op, call, implementation)
    except REFUSALS as error:
        return error
    except RuntimeError as error:
        if "meta" not in str(error):  # PyTorch's own words of tensors without contents
            raise
        return error


def differ(native: object, reference: object, values: bool) -> str | None:
    """How two outcomes differ that ought not to; in their numbers too, if `values`."""
    refused = [isinstance(x, Exception) for x in (native, reference)]
    if all(refused):
        lines = str(native).splitlines()
        told = len(lines) == 1 or isinstance(native, ImplementationError)  # a line for each reason
        return None if told else f"told in {len(lines)} lines: {native}"
    if isinstance(native, ImplementationError):
        return None
    if any(refused):
        told = [str(x) if isinstance(x, Exception) else "a result" for x in (native, reference)]
        return f"native gives {told[0]}, the reference {told[1]}"
    for mine, theirs in zip(native, reference, strict=True):
        if mine.shape != theirs.shape:
            return f"native gives {list(mine.shape)}, the reference {list(theirs.shape)}"
        # Which of two nearly equal ones is taken may differ, what it is worth may not.
        near = torch.allclose(mine.float(), theirs.float(), rtol=2e-3, atol=2e-3, equal_nan=True)
        if values and mine.is_floating_point() and not near:
            return f"native gives {mine.flatten()[:8]}, the reference {theirs.flatten()[:8]}"
    return None


def moderate(call: Arguments) -> bool:
    """Whether all floats are ones that rounding treats alike in any order of operations."""
    tensors = [x for x in call.values() if isinstance(x, Tensor) and x.is_floating_point()]
    fine = all(x.dtype.itemsize >= 4 and bool((x.abs() < 1e4).all()) for x in tensors)
    return fine and all(abs(x) < 1e4 for x in call.values() if isinstance(x, float))


def try_one(seed: int) -> str | None:
    """Make the hostile call of this seed; what is wrong with its outcome."""
    draw = random.Random(seed)
    op = draw.choice([*OPS.values(), *OTHERS])
    call = good_call(op, draw)
    done = [spoil(draw, call) for _ in range(draw.randint(0, 2))]
    native = outcome(op, call, "native")
    served = not isinstance(native, ImplementationError)
    if not served:
        native = outcome(op, call, "auto")
    reference = outcome(op, call, list(op.implementations)[-1])
    if any(isinstance(x, Tensor) and x.device.type == "meta" for x in call.values()):
        return None  # has no contents that could be compared
    found = differ(native, reference, served and moderate(call))
    if found is None:
        return None
    return f"seed {seed}: {op.name} with {', '.join(done) or 'nothing spoilt'}: {found}"


def read_too_far() -> None:
    """A call past all checks that reads twice as much as is there."""
    x, seed = torch.zeros(1000), torch.zeros((), dtype=torch.int64)
    out = torch.zeros(2000)
    dropout._compute(*library.pointers(x, seed, out), 2000, 0, 1.0, 0, 1)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m tests.faults.kernels --help`."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.kernels", description=__doc__)
    parser.add_argument("--calls", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the first call")
    parser.add_argument("--overrun", action="store_true", help="read too far, to be noticed")
    options = parser.parse_args(arguments)
    if "SDST_TEST_LIBRARY" not in os.environ:
        from tests.faults import checked

        with tempfile.TemporaryDirectory() as folder:
            checked.build(Path(folder))
            done = checked.run(Path(folder), "tests.faults.kernels", *(arguments or sys.argv[1:]))
        print(done.stdout + done.stderr, end="")
        return done.returncode
    library.FOLDER = Path(os.environ["SDST_TEST_LIBRARY"])
    if options.overrun:
        read_too_far()
    wrong = 0
    for seed in range(options.seed, options.seed + options.calls):
        print(f"seed {seed}", end="\r", file=sys.stderr, flush=True)
        if found := try_one(seed):
            wrong += 1
            print(found)
    print(f"{options.calls} hostile calls, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
