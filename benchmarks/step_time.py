"""`python -m benchmarks.step_time`: what bounds a training step, here and on an H100.

Every operation of one real step (forward, losses with matching, backward, clipping, AdamW) is noted
at its real shapes: floating-point operations, bytes, and that it is one launch. A machine is its
peaks; the least time of an operation on it is what arithmetic or memory need, whichever is more.

Assumptions:

- Matrix multiplies, convolutions and attention count by their arithmetic and bytes, all else by its
  bytes alone. Every operation reads its inputs and writes its outputs once, to memory: no cache
  serves the next operation, and nothing is fused that PyTorch does not fuse.
- A matrix multiply is cut into tiles of 128 x 128, one to a unit (a streaming multiprocessor) at a
  time, so a small one leaves units idle. Within a tile the peak is reached.
- A GPU runs while the host launches what comes next, so a step takes as long as the slower of the
  two. In a CUDA graph the host is out of it and a launch costs what the smallest kernel takes. A
  CPU does one after the other.

The same model with this CPU's measured peaks is compared with a real step, timed operation by
operation. With a GPU, the whole step is timed there too, eager and as a CUDA graph.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.measuring.gpu import captured, seconds
from benchmarks.measuring.roofline import measure
from benchmarks.measuring.steps import TrainingStep
from sdst.config import Config, load_config
from sdst.errors import run

TILE = 128
RECIPE = "qvhighlights_internvideo2"
VARIANTS = {
    "the paper's block": [],
    "schedule 8 4 2 1 1": ["--model.schedule", "[8,4,2,1,1]"],
    "context sparse": ["--model.context", "sparse"],
}


@dataclass(frozen=True)
class Machine:
    """The peaks of a device.

    Args:
        name: for the table.
        flops: operations per second of matrix products.
        bandwidth: bytes per second.
        units: parts that work on a tile of a product each.
        launch: seconds of the host per operation, beside the device's work.
        gap: seconds that an operation takes whatever it does, from the one before to the next.
    """

    name: str
    flops: float
    bandwidth: float
    units: int
    launch: float
    gap: float


# NVIDIA's data sheet of the H100 SXM: 989 TFLOP/s in bf16 without sparsity, 3.35 TB/s, 132
# multiprocessors. Measured on an H200, of the same generation: a kernel with next to nothing to do
# takes 2.5 us in a CUDA graph. Assumed: 5 us of the host for an eager operation.
H100 = Machine("H100 SXM, bf16", 989e12, 3.35e12, 132, launch=5e-6, gap=2.5e-6)
CPU_GAP = 3e-6  # PyTorch's own time for an operation on a CPU (assumed)
_KINDS = 12  # lines of the check
# A view that its schema does not call one, and the profiler's marks.
_NO_WORK = ("_unsafe_view", "_record_function_enter_new", "_record_function_exit")


@dataclass(frozen=True)
class Work:
    """Work of an operation.

    Args:
        flops: of products and attention, a multiply-add counted as two; 0 for all else.
        bytes: read and written.
        tiles: parts that a product can be cut into.
    """

    flops: int
    bytes: int
    tiles: int

    @classmethod
    def of(cls, func: torch._ops.OpOverload, args: tuple, kwargs: dict, result: object) -> Work:
        """Counted from the tensors that go in and come out."""
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        moved = sum(map(_extent, inputs)) + sum(map(_extent, outputs))
        packet = func.overloadpacket
        if packet in flop_registry:
            flops = flop_registry[packet](*args, **kwargs, out_val=result)
            *batch, rows, columns = (1, *outputs[0].shape)
            tiles = math.prod(batch) * -(-rows // TILE) * -(-columns // TILE)
            return cls(flops, moved, tiles)
        return cls(0, moved, 0)


@dataclass(frozen=True)
class Operation:
    """One launch.

    Args:
        name: of PyTorch's operation.
        part: of the step.
        seconds: that it took, if it really ran.
    """

    name: str
    part: str
    work: Work
    seconds: float

    def arithmetic(self, machine: Machine) -> float:
        """Least seconds of its arithmetic, in whole waves of tiles."""
        waves = -(-self.work.tiles // machine.units)
        busy = self.work.tiles / (waves * machine.units) if waves else 1.0
        return self.work.flops / (machine.flops * busy)

    def memory(self, machine: Machine) -> float:
        """Least seconds of its bytes."""
        return self.work.bytes / machine.bandwidth

    def least(self, machine: Machine) -> float:
        """Least seconds on `machine`, without its launch."""
        return max(self.arithmetic(machine), self.memory(machine))


class Recorder(TorchDispatchMode):
    """Notes every operation that reaches a device, under the part of the model it belongs to.

    What a child of the model does backwards is its own too: the autograd nodes that its forward
    pass leaves behind carry its name.
    """

    def __init__(self, step: TrainingStep) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._part = self._around = ""
        step.watch = self._begin
        for name, child in step.model.named_children():
            child.register_forward_pre_hook(partial(self._enter, name), with_kwargs=True)
            child.register_forward_hook(self._leave, with_kwargs=True)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        start = time.perf_counter()
        result = func(*args, **kwargs)
        seconds = time.perf_counter() - start
        if not is_free(func):
            node = torch._C._current_autograd_node()
            part = _notes(node).get("part", "recurrence") if node else self._part
            name, work = func.overloadpacket.__name__, Work.of(func, args, kwargs, result)
            self.operations.append(Operation(name, part, work, seconds))
        return result

    def _begin(self, phase: str, given: list[Tensor]) -> None:
        _label(given, self._part)
        self._part = phase

    def _enter(self, name: str, child: nn.Module, args: tuple, kwargs: dict) -> None:
        _label(_tensors((args, kwargs)), self._part)
        self._around, self._part = self._part, name

    def _leave(self, child: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        _label(_tensors(output), self._part)
        self._part = self._around


def _label(tensors: list[Tensor], part: str) -> None:
    """Write `part` on the autograd nodes that led to `tensors` and carry no name yet."""
    nodes = [tensor.grad_fn for tensor in tensors]
    while nodes:
        node = nodes.pop()
        if node is not None and "part" not in _notes(node):
            _notes(node)["part"] = part
            nodes += [before for before, _ in node.next_functions]


def _notes(node: Node) -> dict[str, str]:
    """A node's own dictionary, which PyTorch's types take for a method."""
    return cast(dict[str, str], node.metadata)


def is_free(func: torch._ops.OpOverload) -> bool:
    """Whether `func` moves nothing: it returns views only, asks something, or allocates."""
    returns = func._schema.returns
    views = returns and all(r.alias_info and not r.alias_info.is_write for r in returns)
    name = func.overloadpacket.__name__
    no_work = name.startswith("empty") or name in _NO_WORK
    return bool(views) or no_work or func.namespace == "prim"


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _extent(tensor: Tensor) -> int:
    """Bytes behind a tensor; what is only repeated by a stride of 0 counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.element_size()


def record_step(config: Config, batch: int, precision: torch.dtype, real: bool) -> list[Operation]:
    """The operations of one training step at QVHighlights' shapes.

    Args:
        precision: of autocast; float32 is none.
        real: compute and take the time of each operation; else only their shapes are followed.
    """
    with nullcontext() if real else FakeTensorMode():
        step = TrainingStep(config, batch, precision=precision)
        for _ in range(3 if real else 1):  # the optimiser makes its state in the first step
            step()
        with Recorder(step) as recorder:
            step()
    return recorder.operations


def grouped(operations: list[Operation], key: Callable[[Operation], str]) -> dict[str, list]:
    """Operations by `key`, in the order first met."""
    groups: dict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        groups[key(operation)].append(operation)
    return groups


def predict_table(operations: list[Operation], machine: Machine) -> str:
    """Time of each part of the step on `machine`, a line each, and the resource that bounds it."""
    lines = [
        "| part | launches | GFLOP | GB | arithmetic | memory | device | host | bound by |",
        "|---" * 9 + "|",
    ]
    parts = {**grouped(operations, lambda o: o.part), "the step": operations}
    for part, members in parts.items():
        arithmetic = sum(o.arithmetic(machine) for o in members)
        memory = sum(o.memory(machine) for o in members)
        device, host = device_seconds(members, machine), machine.launch * len(members)
        launching = max(machine.gap * len(members), host if host > device else 0.0)
        needs = {"launching": launching, "memory": memory, "arithmetic": arithmetic}
        bound = max(needs, key=needs.__getitem__)
        lines.append(
            f"| {part} | {len(members)} | {sum(o.work.flops for o in members) / 1e9:.1f} "
            f"| {sum(o.work.bytes for o in members) / 1e9:.2f} "
            f"| {_ms(arithmetic)} | {_ms(memory)} | {_ms(device)} | {_ms(host)} | {bound} |"
        )
    return "\n".join(lines)


def device_seconds(operations: list[Operation], machine: Machine) -> float:
    """Seconds of the device when every launch is there in time."""
    return sum(o.least(machine) + machine.gap for o in operations)


def check_table(operations: list[Operation], machine: Machine) -> str:
    """Predicted and measured time of a real step by kind of operation, longest first."""
    lines = [
        "| operation | calls | predicted | measured | predicted / measured |",
        "|---" * 5 + "|",
    ]
    kinds = grouped(operations, lambda o: o.name)
    rows = sorted(kinds.items(), key=lambda kind: -sum(o.seconds for o in kind[1]))
    rest = [o for _, members in rows[_KINDS:] for o in members]
    for name, members in [*rows[:_KINDS], ("all others", rest), ("the step", operations)]:
        predicted = device_seconds(members, machine)
        measured = sum(o.seconds for o in members)
        lines.append(
            f"| {name} | {len(members)} | {_ms(predicted)} | {_ms(measured)} "
            f"| {predicted / measured:.2f} |"
        )
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def this_cpu() -> Machine:
    """The CPU's peaks with PyTorch's present threads, measured now."""
    roofline, threads = measure("cpu", "float32"), torch.get_num_threads()
    name = f"this CPU, {threads} threads, fp32"
    return Machine(name, roofline.flops, roofline.bandwidth, threads, 0.0, CPU_GAP)


def measured_on_gpu(config: Config, batch: int) -> str:
    """Times of a real step in bf16 on this machine's GPU, in words."""
    step = TrainingStep(config, batch, precision=torch.bfloat16, device="cuda")
    eager = seconds(step)
    return f"eager {_ms(eager)}, CUDA graph {_ms(seconds(captured(step)))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; see `python -m benchmarks.step_time --help`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--batch", type=int, default=128, help="on the GPU (default: %(default)s)")
    parser.add_argument("--cpu-batch", type=int, default=32, help="of the check (%(default)s)")
    options = parser.parse_args(arguments)
    for name, overrides in VARIANTS.items():
        config = load_config(RECIPE, overrides)
        operations = record_step(config, options.batch, torch.bfloat16, real=False)
        eager = max(device_seconds(operations, H100), H100.launch * len(operations))
        graph = device_seconds(operations, H100)
        print(f"\n{name}, batch {options.batch}, {H100.name}")
        print(f"eager {_ms(eager)}, CUDA graph {_ms(graph)}\n")
        if torch.cuda.is_available():
            measured = measured_on_gpu(config, options.batch)
            print(f"measured on {torch.cuda.get_device_name()}: {measured}\n")
        print(predict_table(operations, H100))
    config, machine = load_config(RECIPE), this_cpu()
    operations = record_step(config, options.cpu_batch, torch.float32, real=True)
    print(f"\nthe paper's block, batch {options.cpu_batch}, {machine.name}, against a real step\n")
    print(check_table(operations, machine))
    return 0


if __name__ == "__main__":
    run(main)
