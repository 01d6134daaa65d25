"""`python -m benchmarks.launches`: kernel launches of a training step and of an answer.

Operations that reach a device are counted at QVHighlights' shapes in bf16, as by
`benchmarks.step_time`; nothing is computed. Fewer launches are faster, in a CUDA graph as well.
`MOST` is a ratchet: a test fails when a count exceeds it. Lower it there when a count falls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.measuring.steps import random_inputs
from benchmarks.step_time import RECIPE, VARIANTS, is_free, record_step
from sdst.config import Config, load_config
from sdst.errors import run
from sdst.model import SDST

BATCH = 8  # counts do not depend on it


class Launches(NamedTuple):
    """Of a training step and of answering a question about an encoded video."""

    step: int
    answer: int


MOST = {
    "the paper's block": Launches(1_714, 564),
    "schedule 8 4 2 1 1": Launches(1_981, 630),
    "context sparse": Launches(1_913, 643),
}


class _Counter(TorchDispatchMode):
    launches = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.launches += not is_free(func)
        return func(*args, **(kwargs or {}))


def count(variant: str) -> Launches:
    """Launches of the recipe with the options of one of `VARIANTS`."""
    config = load_config(RECIPE, VARIANTS[variant])
    return Launches(len(record_step(config, BATCH, torch.bfloat16, real=False)), _answer(config))


def _answer(config: Config) -> int:
    with FakeTensorMode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model = SDST(config.model).eval()
        video, text, clips, words = random_inputs(config.model, 1)
        encoded = model.encode_video(video, clips)
        with _Counter() as counter:
            model.answer(encoded, text, words, every_step=False)
    return counter.launches


def main() -> int:
    """The command."""
    print("| variant | a training step | at most | an answer | at most |")
    print("|---" * 5 + "|")
    for variant, most in MOST.items():
        found = count(variant)
        print(f"| {variant} | {found.step:,} | {most.step:,} | {found.answer} | {most.answer} |")
    return 0


if __name__ == "__main__":
    run(main)
