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
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sdst.kernels import (
    ImplementationError,
    NonFiniteCostError,
    cross_attention,
    deformable_attention,
    dense_attention,
    dequantize,
    dropout,
    gathered_attention,
    library,
    linear_assignment,
    pool_tokens,
    pyramid,
    quantize,
    row_program,
    select_tokens,
    temporal_nms,
)

# NotImplementedError is PyTorch's, of tensors without contents.
REFUSALS = (ValueError, TypeError, ImplementationError, NonFiniteCostError, NotImplementedError)
INTEGERS = (-(2**63), -(2**62), -(2**31), -1, 0, 1, 2**31, 2**40, 2**62, 2**63 - 1)
FLOATS = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e-40)
DTYPES = (torch.float64, torch.float16, torch.int32, torch.int8, torch.bool, torch.complex64)
Arguments = dict[str, object]


class Draw:
    """Random good arguments; small sizes, so that a call is quick and edges are frequent."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def size(self, least: int = 0, most: int = 6) -> int:
        return self.random.randint(least, most)

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def lengths(self, batch: int, length: int) -> Tensor | None:
        some = torch.randint(0, length + 1, (batch,), generator=self.generator)
        return self.random.choice([None, some])

    def store(self) -> Arguments:
        """Tokens, with scales where they are int8, and lengths."""
        batch, length = self.size(), self.size()
        shape = (batch, length, self.size(1), self.random.choice([1, 3, 8, 17]))
        tokens, scales = self.floats(*shape), None
        if self.random.random() < 0.3:
            tokens, scales = quantize(tokens)
        elif self.random.random() < 0.5:
            tokens = tokens.to(self.random.choice([torch.float16, torch.bfloat16]))
        strides = self.random.choice([(1, 2, 4, 8), (1,), (3, 1), (2**20, 1)])
        lengths = self.lengths(batch, length)
        return {"tokens": tokens, "scales": scales, "lengths": lengths, "strides": strides}


def deformable(draw: Draw) -> Arguments:
    batch, length, queries, heads = draw.size(), draw.size(), draw.size(), draw.size(1)
    points = (batch, queries, heads, draw.size(1))
    return {
        "value": draw.floats(batch, length, heads, draw.random.choice([1, 5, 8, 33])),
        "references": draw.floats(batch, queries, 2),
        "offsets": draw.floats(*points),
        "logits": draw.floats(*points),
        "lengths": draw.lengths(batch, length),
    }


def dense(draw: Draw) -> Arguments:
    batch, length = draw.size(), draw.size()
    shape = (batch, length, draw.size(1), draw.random.choice([1, 5, 16]))
    return {
        **{name: draw.floats(*shape) for name in "qkv"},
        "lengths": draw.lengths(batch, length),
        "window": draw.random.choice([None, None, 1, 2]),
        "global_clips": draw.size(0, 2),
    }


def cross(draw: Draw) -> Arguments:
    batch, length, heads, width = draw.size(), draw.size(), draw.size(1), draw.size(1, 9)
    return {
        "q": draw.floats(batch, draw.size(), heads, width),
        **{name: draw.floats(batch, length, heads, width) for name in "kv"},
        "lengths": draw.lengths(batch, length),
    }


def gathered(draw: Draw) -> Arguments:
    store = draw.store()
    batch, length, per_clip, width = store["tokens"].shape
    count = sum(pyramid.steps(length, store["strides"])) * per_clip
    kept = draw.size()
    shape = (batch, kept)
    return {
        **store,
        "query": draw.floats(batch, draw.size(), draw.size(1), width),
        "indices": torch.randint(0, max(count, 1), shape, generator=draw.generator),
        "bias": draw.floats(*shape),
        "valid": (draw.floats(*shape) > -1) & (count > 0),
        "scale": 0.5,
    }


def selected(draw: Draw) -> Arguments:
    store = draw.store()
    u = draw.floats(len(store["tokens"]), store["tokens"].shape[3])
    return {**store, "u": u, "k": draw.size(0, 20), "segments": draw.size(1, 5)}


def pooled(draw: Draw) -> Arguments:
    store = draw.store()
    del store["strides"]
    u = draw.floats(len(store["tokens"]), store["tokens"].shape[3])
    return {**store, "u": u, "kept": draw.size(1, 8)}


def assigned(draw: Draw) -> Arguments:
    batch, columns = draw.size(), draw.size()
    cost = draw.floats(batch, columns + draw.size(), columns)
    return {"cost": cost, "sizes": torch.randint(0, columns + 1, (batch,))}


def suppressed(draw: Draw) -> Arguments:
    batch, count = draw.size(), draw.size(0, 12)
    return {
        "spans": draw.floats(batch, count, 2).sort(-1).values,
        "scores": draw.floats(batch, count).abs(),
        "counts": draw.lengths(batch, count),
        "method": draw.random.choice(["hard", "linear", "gaussian"]),
        "threshold": 0.5,
        "sigma": 0.5,
    }


def dropped(draw: Draw) -> Arguments:
    return {"x": draw.floats(draw.size(), draw.size(0, 40)), "rate": 0.5}


def quantized(draw: Draw) -> Arguments:
    return {"tokens": draw.floats(draw.size(), draw.size(1, 9))}


def rows(draw: Draw) -> Arguments:
    batch, length, keys, width = draw.size(), draw.size(), draw.size(), 8
    return {
        "batch": batch,
        "rows": length,
        "heads": draw.random.choice([1, 2, 8]),
        "row_lengths": draw.lengths(batch, length),
        "weight": draw.floats(width, width),
        "bias": draw.floats(width),
        "x": draw.floats(batch, length, width),
        "references": draw.floats(batch, length, 2),
        **{name: draw.floats(batch, keys, width) for name in ("k", "v")},
        "words": torch.randint(0, keys + 1, (batch,)),
    }


def run_rows(implementation: str, **call: object) -> list[Tensor]:
    """A program with every kind of expression."""
    x = row_program.read("x", 8)
    x = x + row_program.linear(x, call.pop("weight"), call.pop("bias"), relu=True)
    heads = call.pop("heads")
    code = row_program.code("references", 2, torch.tensor([1.0, 2.0]))
    program = row_program.RowProgram(
        attended=row_program.attend(x, "k", "v", "words", heads),
        ends=row_program.ends("references", "v", "words", 8),
        sampled=row_program.sample(x, x, "references", "v", "words", heads, 8),
        around=row_program.around("x", 8),
        code=code,
    )
    return program.run(implementation=implementation, **call)


def run_dropout(implementation: str, x: Tensor, rate: float) -> Tensor:
    torch.manual_seed(0)
    return dropout(x, rate, implementation=implementation)


def run_quantize(implementation: str, tokens: Tensor) -> Tensor:
    return dequantize(*quantize(tokens))


OPS: dict[str, tuple[Callable[[Draw], Arguments], Callable[..., object]]] = {
    "deformable_attention": (deformable, deformable_attention),
    "dense_attention": (dense, dense_attention),
    "cross_attention": (cross, cross_attention),
    "gathered_attention": (gathered, gathered_attention),
    "select_tokens": (selected, select_tokens),
    "pool_tokens": (pooled, pool_tokens),
    "linear_assignment": (assigned, linear_assignment),
    "temporal_nms": (suppressed, temporal_nms),
    "dropout": (dropped, run_dropout),
    "quantize": (quantized, run_quantize),
    "row_program": (rows, run_rows),
}


DIFFERENTIABLE = (
    deformable_attention,
    dense_attention,
    cross_attention,
    gathered_attention,
    select_tokens,
    pool_tokens,
)


def spoil(draw: Draw, call: Arguments) -> str:
    """Make one argument hostile, in place; says what was done."""
    name = draw.random.choice(list(call))
    value = call[name]
    if isinstance(value, Tensor) and value.device.type != "meta":
        kind = draw.random.choice(["values", "values", "values", "dtype", "shape", "other", "view"])
        call[name] = _spoilt(draw, value, kind)
        return f"{name}: {kind}"
    if isinstance(value, tuple):
        call[name] = draw.random.choice([(), (0,), (2**62, 1), (-1, 2), (1.5,), (2**64,), None])
    elif isinstance(value, float):
        call[name] = draw.random.choice([*FLOATS, -1.0, 1.0])
    else:
        call[name] = draw.random.choice([*INTEGERS, math.nan, 1.5, "x", None])
    return f"{name}: {call[name]!r}"


def _spoilt(draw: Draw, x: Tensor, kind: str) -> object:
    if kind == "dtype":
        return x.to(draw.random.choice(DTYPES))
    if kind == "shape":
        return draw.random.choice([x[..., :-1], x[:-1], x[None], x.flatten(), x.unsqueeze(-1)])
    if kind == "view":  # good: the same numbers, elsewhere in memory
        return torch.stack((x, x), -1)[..., 0] if x.dim() else x
    if kind == "other":
        return draw.random.choice([x.to("meta"), x.tolist(), None])
    x = x.clone()
    choices = FLOATS if x.is_floating_point() else INTEGERS
    for place in torch.randint(max(x.numel(), 1), (draw.size(1, 3),)).tolist():
        if x.numel() and not x.dtype.is_complex and x.dtype != torch.bool:
            value = draw.random.choice(choices)
            info = None if x.is_floating_point() else torch.iinfo(x.dtype)
            x.view(-1)[place] = value if info is None else max(info.min, min(value, info.max))
    return x


def outcome(op: Callable[..., object], call: Arguments, implementation: str) -> object:
    """What the call gives, with the gradients where it has some, or the refusal."""
    leaves = []
    if op in DIFFERENTIABLE:
        for name, x in call.items():
            if isinstance(x, Tensor) and x.is_floating_point() and name not in ("tokens", "scales"):
                call[name] = x.detach().requires_grad_()
                leaves.append(call[name])
    try:
        found = op(**call, implementation=implementation)
    except REFUSALS as error:
        return error
    except RuntimeError as error:
        if "meta" not in str(error):  # PyTorch's own words of tensors without contents
            raise
        return error
    found = [found] if isinstance(found, Tensor) else list(found)
    total = sum(x.float().sum() for x in found if x.requires_grad)
    if isinstance(total, Tensor):
        found += [x for x in torch.autograd.grad(total, leaves, allow_unused=True) if x is not None]
    return [x.detach() for x in found]


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
    draw = Draw(seed)
    name = draw.random.choice(list(OPS))
    make, op = OPS[name]
    call = make(draw)
    done = [spoil(draw, call) for _ in range(draw.size(0, 2))]
    second = "sdpa" if name in ("dense_attention", "cross_attention") else "reference"
    native = outcome(op, dict(call), "native")
    if isinstance(native, ImplementationError) and name != "dropout":  # torch's draws otherwise
        native = outcome(op, dict(call), "auto")
    reference = outcome(op, dict(call), second)
    if any(isinstance(x, Tensor) and x.device.type == "meta" for x in call.values()):
        return None  # has no contents that could be compared
    found = differ(native, reference, moderate(call))
    if found is None:
        return None
    return f"seed {seed}: {name} with {', '.join(done) or 'nothing spoilt'}: {found}"


def read_too_far() -> None:
    """A call past all checks that reads twice as much as is there."""
    x, seed = torch.zeros(1000), torch.zeros((), dtype=torch.int64)
    out = torch.zeros(2000)
    library.load("cpu").sdst_dropout(*library.pointers(x, seed, out), 2000, 0, 1.0, 0, 1)


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
