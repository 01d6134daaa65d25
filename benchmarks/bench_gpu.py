"""The kernels, the training step and answers on a GPU, where there is one.

A round of a kernel is CALLS calls in one CUDA graph, so that nothing of the host is in it; FLOPs
and bytes count all of them. "Against reference" is what a caller meets, eager calls and their
launches; "against reference in a graph" the same without them, where the reference asks the host
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from benchmarks import bench_deformable_attention as deformable
from benchmarks import bench_mark_saliency as marking
from benchmarks.bench_data import write_dataset
from benchmarks.bench_dense_attention import CHANNELS, HEADS
from benchmarks.bench_end_to_end import SCHEDULES, answers, patches, recipe
from benchmarks.bench_gathered_attention import Problem, by_name
from benchmarks.measuring.gpu import captured, finished, peak_memory
from benchmarks.measuring.interleave import interleave, ratio
from benchmarks.measuring.steps import TrainingStep, count_flops
from benchmarks.measuring.tokens import LARGE, make_store, shape_of
from benchmarks.step_time import RECIPE, VARIANTS
from benchmarks.studies.every_token import EveryToken
from sdst.config import load_config
from sdst.convert import convert
from sdst.kernels import (
    deformable_attention,
    dense_attention,
    linear_assignment,
    mark_saliency,
    pool_tokens,
    select_tokens,
    temporal_nms,
    unsupported_reasons,
)
from sdst.kernels.deformable_attention.reference import deformable_attention as deformable_reference
from sdst.kernels.dense_attention import flops as attention_flops
from sdst.kernels.dense_attention import traffic as attention_traffic
from sdst.kernels.linear_assignment import flops as assignment_flops
from sdst.kernels.linear_assignment import traffic as assignment_traffic
from sdst.kernels.mark_saliency import flops as mark_flops
from sdst.kernels.mark_saliency import traffic as mark_traffic
from sdst.kernels.pool_tokens import flops as pool_flops
from sdst.kernels.pool_tokens import traffic as pool_traffic
from sdst.kernels.select_tokens import flops as select_flops
from sdst.kernels.select_tokens import traffic as select_traffic
from sdst.kernels.temporal_nms import flops as nms_flops
from sdst.kernels.temporal_nms import traffic as nms_traffic
from sdst.sources.dataset import open_data
from sdst.training.run_folder import RunFolder
from sdst.training.trainer import Trainer, make_accelerator

CALLS, ROUNDS = 20, 20
BATCH, PATCHES, PATCH_BATCH = 128, 50, 32
DIRECTIONS = ("forward", "forward+backward")
STORES = {"fp32": torch.float32, "fp16": torch.float16}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def compare(
    benchmark,
    op: str,
    calls: Mapping[str, Callable[[], Sequence[Tensor]]],
    tolerance: float,
    asks_the_host: bool = False,
    store: str | None = None,
    **extra: int,
) -> None:
    """Time "sdst" of `calls` as a graph, against the others; `extra` of one call."""
    for other in list(calls)[1:]:
        for mine, theirs in zip(calls["sdst"](), calls[other](), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=tolerance, atol=tolerance)
    eager = interleave({name: finished(call) for name, call in calls.items()}, ROUNDS)
    graphs = {"sdst": finished(captured(calls["sdst"], CALLS))}
    for other in list(calls)[1:]:
        benchmark.extra_info[f"against {other}"] = ratio(eager[other], eager["sdst"])
        if not asks_the_host:
            graphs[other] = finished(captured(calls[other], CALLS))
    in_graphs = interleave(graphs, ROUNDS)
    for other in list(graphs)[1:]:
        benchmark.extra_info[f"against {other} in a graph"] = ratio(
            in_graphs[other], in_graphs["sdst"]
        )
    benchmark.group = f"{op} on a GPU"
    benchmark.extra_info |= {
        "calls a round": CALLS,
        "peak bytes": {name: peak_memory(call) for name, call in calls.items()},
        "device": "cuda",
        "dtype": "float32",  # of the arithmetic
        **{name: CALLS * count for name, count in extra.items()},
    }
    if store is not None:
        benchmark.extra_info["store"] = store
    benchmark.pedantic(graphs["sdst"], rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.parametrize("case", deformable.CASES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def bench_deformable_attention_on_gpu(benchmark, direction: str, case: str) -> None:
    inputs = deformable.make_inputs(deformable.CASES[case], "cuda")
    upstream = torch.ones_like(deformable_reference(*inputs))

    def run(attention: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (attention(*inputs),)
        return torch.autograd.grad(attention(*inputs), inputs, upstream)

    triton = partial(deformable_attention, implementation="triton")
    calls = {"sdst": partial(run, triton), "reference": partial(run, deformable_reference)}
    extra = deformable.describe(deformable.CASES[case], direction)
    compare(
        benchmark,
        "deformable_attention",
        calls,
        2e-2,
        flops=extra["flops"],
        bytes=extra["bytes"],
    )


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("direction", DIRECTIONS)
def bench_select_tokens_on_gpu(benchmark, direction: str, shape: str, store: str) -> None:
    tokens, u = make_store(shape, STORES[store], "cuda")
    upstream = torch.randn(len(tokens), 64, device="cuda")

    def run(implementation: str) -> tuple[Tensor, ...]:
        with torch.set_grad_enabled(direction != "forward"):
            indices, scores, valid = select_tokens(tokens, u, 64, implementation=implementation)
        if direction == "forward":
            return indices, scores, valid
        return indices, *torch.autograd.grad(scores, (u,), upstream)

    extra = {}
    if direction == "forward":
        extra["flops"] = select_flops(*shape_of(shape))
        extra["bytes"] = select_traffic(*shape_of(shape), 64, tokens.element_size())
    calls = {"sdst": partial(run, "triton"), "reference": partial(run, "reference")}
    compare(benchmark, "select_tokens", calls, 1e-3, asks_the_host=True, store=store, **extra)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def bench_pool_tokens_on_gpu(benchmark, direction: str, store: str) -> None:
    shape = "patch tokens of 64 videos"
    tokens, u = make_store(shape, STORES[store], "cuda")
    u = (u / 32).detach().requires_grad_()
    batch, length, _, width = tokens.shape
    upstream = torch.randn(batch, length, width, device="cuda")

    def run(implementation: str) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (pool_tokens(tokens, u, 8, implementation=implementation),)
        return torch.autograd.grad(
            pool_tokens(tokens, u, 8, implementation=implementation), (u,), upstream
        )

    extra = {}
    if direction == "forward":
        extra["flops"] = pool_flops(*tokens.shape)
        extra["bytes"] = pool_traffic(*tokens.shape, element=tokens.element_size())
    calls = {"sdst": partial(run, "triton"), "reference": partial(run, "reference")}
    compare(benchmark, "pool_tokens", calls, 1e-2, store=store, **extra)


@pytest.mark.parametrize("dtype", marking.DTYPES)
@pytest.mark.parametrize("shape", marking.SHAPES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def bench_mark_saliency_on_gpu(benchmark, direction: str, shape: str, dtype: str) -> None:
    inputs = marking.make_inputs(shape, marking.DTYPES[dtype], "cuda")
    dense, _, added, _ = inputs
    upstream = torch.randn(dense.shape, device="cuda").to(dense.dtype)

    def run(implementation: str) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (mark_saliency(*inputs, implementation=implementation),)
        out = mark_saliency(*inputs, implementation=implementation)
        return torch.autograd.grad(out, (dense, added), upstream)

    extra = {}
    if direction == "forward":
        extra["flops"] = mark_flops(*dense.shape)
        extra["bytes"] = mark_traffic(*dense.shape, element=dense.element_size())
    calls = {"sdst": partial(run, "triton"), "reference": partial(run, "reference")}
    compare(benchmark, "mark_saliency", calls, 2e-2, **extra)


@pytest.mark.parametrize(
    ("shape", "stored"),
    [("patch tokens of 64 videos", "int8"), *((shape, "float16") for shape in LARGE)],
)
@pytest.mark.parametrize("direction", DIRECTIONS)
def bench_gathered_attention_on_gpu(benchmark, direction: str, shape: str, stored: str) -> None:
    """With its projections, against itself in PyTorch, and gathering, projecting, attending."""
    problem = Problem(shape, stored, "cuda")
    upstream = torch.randn(problem.query.shape, device="cuda")

    def run(formulation: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        if direction == "forward":
            with torch.no_grad():
                return (formulation(),)
        return torch.autograd.grad(formulation(), problem.leaves, upstream)

    calls = {
        "sdst": partial(run, lambda: problem.with_the_op(by_name("triton"))),
        "reference": partial(run, lambda: problem.with_the_op(by_name("reference"))),
        "projected": partial(run, problem.projected),
    }
    extra = problem.work(projections=True) if direction == "forward" else {}
    compare(benchmark, "gathered_attention", calls, 1e-2, store=stored, asks_the_host=True, **extra)


def bench_linear_assignment_on_gpu(benchmark) -> None:
    """A training step's 640 problems, against the native one and its way to the host and back."""
    cost = torch.randn(640, 10, 5, generator=torch.Generator().manual_seed(0)).cuda()
    sizes = torch.full((640,), 5, device="cuda")
    calls = {
        "sdst": lambda: (linear_assignment(cost, sizes, implementation="cuda"),),
        "native on the host": lambda: (linear_assignment(cost.cpu(), sizes.cpu()).cuda(),),
    }
    compare(
        benchmark,
        "linear_assignment",
        calls,
        0,
        asks_the_host=True,
        flops=assignment_flops(640, 10, 5),
        bytes=assignment_traffic(640, 10, 5),
    )


@pytest.mark.parametrize("method", ["hard", "gaussian"])
def bench_temporal_nms_on_gpu(benchmark, method: Literal["hard", "gaussian"]) -> None:
    generator = torch.Generator().manual_seed(0)
    spans = torch.rand(128, 100, 2, generator=generator).sort(-1).values.cuda()
    scores = torch.rand(128, 100, generator=generator).cuda()

    def run(implementation: str) -> tuple[Tensor, Tensor]:
        return temporal_nms(spans, scores, method=method, implementation=implementation)

    taken = round((run("cuda")[0] >= 0).sum().item() / 128)
    calls = {"sdst": partial(run, "cuda"), "reference": partial(run, "reference")}
    compare(
        benchmark,
        f"temporal_nms {method}",
        calls,
        1e-4,
        asks_the_host=True,
        flops=nms_flops(128, 100, taken),
        bytes=nms_traffic(128, 100),
    )


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both ways"])
@pytest.mark.parametrize(
    ("batch", "length", "padded", "window"),
    [(BATCH, 75, False, None), (BATCH, 75, True, None), (1, 4800, False, 64)],
    ids=["75 clips", "up to 75 clips", "4,800 clips, window 64"],
)
def bench_dense_attention_on_gpu(
    benchmark, batch: int, length: int, padded: bool, window: int | None, backward: bool
) -> None:
    """In bf16, by every library that there is: PyTorch's own against the others."""
    sizes = (batch, length, HEADS, CHANNELS)
    q, k, v = inputs = tuple(
        torch.randn(sizes, device="cuda", dtype=torch.bfloat16).requires_grad_(backward)
        for _ in range(3)
    )
    lengths = torch.randint(length // 2, length + 1, (batch,)).cuda() if padded else None
    upstream = torch.randn_like(q)

    def run(implementation: str) -> None:
        out = dense_attention(q, k, v, lengths, window=window, implementation=implementation)
        if backward:
            torch.autograd.grad(out, inputs, upstream)

    arguments = (*inputs, lengths, lengths, 0.0, window, 0)
    calls = {
        name: partial(run, name)
        for name in ("sdpa", "flash", "xformers")
        if not unsupported_reasons("dense_attention", name, *arguments)
    }
    eager = interleave({name: finished(call) for name, call in calls.items()}, ROUNDS)
    # xformers waits for the device.
    graphs = {n: finished(captured(c, CALLS)) for n, c in calls.items() if n != "xformers"}
    in_graphs = interleave(graphs, ROUNDS)
    benchmark.group = f"attention of {length} clips of {batch} videos on a GPU"
    benchmark.extra_info |= {
        **{f"against {name}": ratio(x, eager["sdpa"]) for name, x in eager.items()},
        **{f"against {n} in a graph": ratio(x, in_graphs["sdpa"]) for n, x in in_graphs.items()},
        "calls a round": CALLS,
        "device": "cuda",
        "dtype": "bfloat16",
    }
    if window is None:
        passes = CALLS * (1 + 2 * backward)
        benchmark.extra_info["flops"] = passes * attention_flops(*sizes)
        benchmark.extra_info["bytes"] = passes * attention_traffic(*sizes, size=2)
    benchmark.pedantic(graphs["sdpa"], rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.parametrize("how", ["eager", "CUDA graph"])
@pytest.mark.parametrize("variant", VARIANTS)
def bench_training_step_on_gpu(benchmark, variant: str, how: str) -> None:
    """The paper's recipe at batch 128 in bf16, all of it: dropout, matching, clipping, AdamW."""
    config = load_config(RECIPE, VARIANTS[variant])
    step = TrainingStep(config, BATCH, precision=torch.bfloat16, device="cuda")
    step()  # the optimiser makes its state
    benchmark.group = f"a training step on a GPU, batch {BATCH}"
    benchmark.extra_info |= {
        "peak bytes": {"sdst": peak_memory(step)},
        "flops": count_flops(step),
        "bytes": 0,
        "device": "cuda",
        "dtype": "bfloat16",
    }
    eager = finished(step)
    call = finished(captured(step)) if how == "CUDA graph" else eager
    if call is not eager:
        seconds = interleave({"eager": eager, "sdst": call}, ROUNDS)
        benchmark.extra_info["against eager"] = ratio(seconds["eager"], seconds["sdst"])
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=3)


def epoch_of(root: Path, run: str, *options: str) -> Callable[[], None]:
    """A call that trains on all batches of the dataset in `root`, once they are in memory."""
    config = load_config(RECIPE, ["--data.root", str(root), *options])
    data, folder = open_data(config, for_training=True), root / run
    trainer = Trainer(config, data, RunFolder(folder), make_accelerator(config, folder))
    batches = list(trainer.loader)

    def epoch() -> None:
        losses = [trainer.train_step(batch)["loss"] for batch in batches]
        torch.stack(losses).cpu()

    return epoch


def bench_training_as_installed_on_gpu(benchmark, tmp_path: Path) -> None:
    """A run's own steps with its defaults, `train.graphs: auto` among them, against eager ones."""
    write_dataset(tmp_path)
    convert(load_config(RECIPE, ["--data.root", str(tmp_path)]), progress=False)
    calls = {
        "sdst": epoch_of(tmp_path, "default"),
        "eager": epoch_of(tmp_path, "eager", "--train.graphs", "no"),
    }
    seconds = interleave(calls, ROUNDS)
    benchmark.group = "an epoch as installed on a GPU"
    benchmark.extra_info |= {
        "against eager": ratio(seconds["eager"], seconds["sdst"]),
        "device": "cuda",
        "dtype": "bfloat16",
    }
    benchmark.pedantic(calls["sdst"], rounds=ROUNDS, warmup_rounds=2)


def bench_patch_training_step_on_gpu(benchmark) -> None:
    """All 50 tokens of a clip, with sparse selection against projecting every one of them."""
    options = {"precision": torch.bfloat16, "device": "cuda"}
    steps = {
        "sdst": TrainingStep(patches(), PATCH_BATCH, PATCHES, **options),
        "every token": TrainingStep(patches(), PATCH_BATCH, PATCHES, model=EveryToken, **options),
    }
    for step in steps.values():
        step()  # the optimiser makes its state
    memory = {name: peak_memory(step) for name, step in steps.items()}
    calls = {f"{name}, eager": finished(step) for name, step in steps.items()}
    calls |= {name: finished(captured(step)) for name, step in steps.items()}
    seconds = interleave(calls, ROUNDS)
    benchmark.group = f"a training step on patch tokens on a GPU, batch {PATCH_BATCH}"
    benchmark.extra_info |= {
        "against every token": ratio(seconds["every token"], seconds["sdst"]),
        "against eager": ratio(seconds["sdst, eager"], seconds["sdst"]),
        "against every token, both eager": ratio(
            seconds["every token, eager"], seconds["sdst, eager"]
        ),
        "peak bytes": memory,
        "device": "cuda",
        "dtype": "bfloat16",
    }
    benchmark.pedantic(calls["sdst"], rounds=ROUNDS, warmup_rounds=2)


@pytest.mark.parametrize("how", ["eager", "CUDA graph"])
@pytest.mark.parametrize("queries", [1, 64, 256, 1024])
@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_query_on_gpu(benchmark, schedule: str, queries: int, how: str) -> None:
    """Queries on one video that is encoded already."""
    config = recipe("--model.schedule", SCHEDULES[schedule])
    answer = answers(config, queries, device="cuda")
    eager = finished(answer)
    call = finished(captured(answer)) if how == "CUDA graph" else eager
    benchmark.group = f"{queries} queries on an encoded video on a GPU"
    benchmark.extra_info |= {"device": "cuda", "dtype": "float32"}
    if call is not eager:
        seconds = interleave({"eager": eager, "sdst": call}, ROUNDS)
        benchmark.extra_info["against eager"] = ratio(seconds["eager"], seconds["sdst"])
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=5)
