"""The whole side-tuner at QVHighlights' size: training, answering, and patch tokens.

The paper's block as R2-Tuning's recurrence has it, K = 4, F = 256, 75 clips, 20 words; everything
on: dropout, masks, all losses, matching, clipping, AdamW. The percentage of the roofline is that of
a matrix multiply's speed in the same dtype; bf16 is also compared with fp32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch

from benchmarks.measuring.interleave import interleave, ratio
from benchmarks.measuring.steps import TrainingStep, count_flops, forward_pass, random_inputs
from benchmarks.studies.every_token import EveryToken
from sdst.config import Config, load_config
from sdst.kernels import use_implementation
from sdst.memory import peak_memory
from sdst.model import SDST

BATCH, ROUNDS = 32, 3
PATCHES, PATCH_BATCH = 50, 8
SCHEDULES = {"full resolution": "[1,1,1,1]", "coarse to fine": "[8,4,2,1]"}


def recipe(*options: str) -> Config:
    """The paper's block with four steps."""
    return load_config(
        "qvhighlights_internvideo2", ["--model.layers", "4", "--model.text_width", "768", *options]
    )


def patches(*options: str) -> Config:
    """R2-Tuning's input: CLIP ViT-B/32, four layers, all 50 tokens of a clip."""
    return load_config("qvhighlights_clip_b32_patches", [*options])


def under(precision: torch.dtype, call: Callable[[], object]) -> Callable[[], object]:
    """`call` with its products in `precision`."""
    return torch.autocast("cpu", precision, enabled=precision != torch.float32)(call)


def report(
    benchmark, call: Callable[[], object], group: str, precision: torch.dtype = torch.float32
) -> None:
    """Note the FLOPs of `call`, so that the report has its share of the roofline."""
    benchmark.group = group
    with use_implementation("reference"):  # row programs show no products
        flops = count_flops(call)
    benchmark.extra_info |= {
        "flops": flops,
        "bytes": 0,
        "device": "cpu",
        "dtype": str(precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def compare(
    benchmark,
    precision: torch.dtype,
    calls: Mapping[str, Callable[[], object]],
    rounds: int = ROUNDS,
) -> dict[str, list[float]]:
    """Seconds of `calls` taken in turns; notes how much faster `sdst` is than the others.

    In fp32 `fp32` is left out, which is `sdst` itself.
    """
    if precision == torch.float32:
        calls = {name: call for name, call in calls.items() if name != "fp32"}
    if len(calls) == 1:
        return {}
    seconds = interleave(calls, rounds)
    for name in calls.keys() - {"sdst", "one"}:
        benchmark.extra_info[f"against {name}"] = ratio(seconds[name], seconds["sdst"])
    return seconds


@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_training_step(benchmark, schedule: str, precision: torch.dtype) -> None:
    config = recipe("--model.schedule", SCHEDULES[schedule])
    step = TrainingStep(config, BATCH, precision=precision)
    report(benchmark, step, f"a training step, batch {BATCH}", precision)
    benchmark.extra_info["peak bytes"] = {"sdst": peak_memory(step)}
    compare(benchmark, precision, {"sdst": step, "fp32": TrainingStep(config, BATCH)})
    benchmark.pedantic(step, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_forward(benchmark, schedule: str, precision: torch.dtype) -> None:
    whole = forward_pass(recipe("--model.schedule", SCHEDULES[schedule]), BATCH)
    forward = under(precision, whole)
    report(benchmark, forward, f"forward, batch {BATCH}", precision)
    compare(benchmark, precision, {"sdst": forward, "fp32": whole})
    benchmark.pedantic(forward, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_query(benchmark, schedule: str, precision: torch.dtype) -> None:
    """A query on a video that is encoded already, against encoding it again for every query."""
    config = recipe("--model.schedule", SCHEDULES[schedule])
    whole = answers(config, queries=1)
    answer, again, modules = (
        under(precision, call)
        for call in (
            whole,
            forward_pass(config, batch=1),
            answers(config, queries=1, by_modules=True),
        )
    )
    report(benchmark, answer, "one query on an encoded video", precision)
    calls = {"sdst": answer, "encoding again": again, "modules": modules, "fp32": whole}
    compare(benchmark, precision, calls, rounds=15)
    benchmark.pedantic(answer, rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("schedule", SCHEDULES)
def bench_queries_at_once(
    benchmark, schedule: str, precision: torch.dtype, queries: int = 64
) -> None:
    """Queries on one video in a batch, against as many calls of one."""
    config = recipe("--model.schedule", SCHEDULES[schedule])
    whole = answers(config, queries)
    together, alone = under(precision, whole), under(precision, answers(config, 1))
    report(benchmark, together, f"{queries} queries on an encoded video", precision)
    seconds = compare(benchmark, precision, {"sdst": together, "one": alone, "fp32": whole})
    one_by_one = [queries * second for second in seconds["one"]]
    benchmark.extra_info["against one by one"] = ratio(one_by_one, seconds["sdst"])
    benchmark.pedantic(together, rounds=ROUNDS, warmup_rounds=1)


def answers(
    config: Config, queries: int, by_modules: bool = False, device: str = "cpu"
) -> Callable[[], object]:
    """A call that answers so many queries on one video that is encoded already."""
    torch.manual_seed(0)
    model = SDST(config.model).to(device).eval()
    if not by_modules:
        model.for_inference()
    video, _, lengths, _ = (x.to(device) for x in random_inputs(config.model, 1))
    _, text, _, words = (x.to(device) for x in random_inputs(config.model, queries))
    with torch.no_grad():
        encoded = model.encode_video(video, lengths)
    return torch.no_grad()(lambda: model.answer(encoded, text, words, every_step=False))


def bench_patch_training_step(benchmark) -> None:
    """All patch tokens, with sparse selection against projecting every one; and of int8."""
    config = patches()
    step = TrainingStep(config, PATCH_BATCH, PATCHES)
    int8 = TrainingStep(config, PATCH_BATCH, PATCHES, int8=True)
    every = TrainingStep(config, PATCH_BATCH, PATCHES, model=EveryToken)
    benchmark.group = f"a training step on patch tokens, batch {PATCH_BATCH}"
    seconds = interleave({"sdst": step, "int8": int8, "every token": every}, ROUNDS)
    benchmark.extra_info |= {
        "against every token": ratio(seconds["every token"], seconds["sdst"]),
        "against int8": ratio(seconds["int8"], seconds["sdst"]),
        "peak bytes": {"sdst": peak_memory(step), "every token": peak_memory(every)},
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(step, rounds=ROUNDS)


def bench_patch_forward(benchmark) -> None:
    """A video of patch tokens, batch 8."""
    forward = forward_pass(patches(), PATCH_BATCH, PATCHES)
    every = forward_pass(patches(), PATCH_BATCH, PATCHES, model=EveryToken)
    benchmark.group = f"forward on patch tokens, batch {PATCH_BATCH}"
    seconds = interleave({"sdst": forward, "every token": every}, ROUNDS)
    benchmark.extra_info |= {
        "against every token": ratio(seconds["every token"], seconds["sdst"]),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }
    benchmark.pedantic(forward, rounds=ROUNDS)
