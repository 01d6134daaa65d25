"""A model as a program of `torch.export` or ONNX, which is run before anybody gets it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sdst.exporting.answering import Answering
from sdst.kernels import use_implementation

TOLERANCE = 1e-4  # of what is answered, times in units of the video
MOST = {"batch": 1024, "clips": 4096, "words": 1024, "patches": 4096}  # of a program's sizes
PLAIN = ("reference", "sdpa")  # the implementations that are PyTorch alone

Inputs = dict[str, Tensor]
Answers = dict[str, np.ndarray]
Run = Callable[[Inputs], Answers]


class Sizes(NamedTuple):
    """Of one call: B, L, P and N of `Answering`."""

    batch: int
    clips: int
    patches: int
    words: int


def least_sizes(network: Answering, patches: int | None) -> Sizes:
    """The least sizes that a program takes.

    Args:
        network: is exported.
        patches: P; None: any that the model can choose from.
    """
    model = network.model
    pooled = 1 if model.selection is None else model.config.pooled_tokens
    return Sizes(1, 1, patches or max(2, pooled), 1)


def tried_sizes(least: Sizes, free_patches: bool) -> list[Sizes]:
    """Sizes that a program is tried with. It is traced with the first."""
    more = (4, 1, 10) if free_patches else (0, 0, 0)
    traced = Sizes(3, 30, least.patches + more[0], 9)
    single = Sizes(1, 1, least.patches + more[1], 1)
    large = Sizes(2, 53, least.patches + more[2], 14)
    return [traced, single, large]


def made_up(network: Answering, sizes: Sizes) -> Inputs:
    """Inputs of `Answering`, of a seed; of the samples but the first some is padding."""
    config, random = network.model.config, torch.Generator().manual_seed(sum(sizes))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def lengths(most: int) -> Tensor:
        some = torch.randint(1, most + 1, (sizes.batch,), generator=random)
        some[0] = most
        return some

    clips = lengths(sizes.clips)
    shape = sizes.batch, config.layers, sizes.clips, sizes.patches, config.video_width
    return {
        "video": normal(*shape),
        "text": normal(sizes.batch, config.layers, sizes.words, config.text_width),
        "video_lengths": clips,
        "text_lengths": lengths(sizes.words),
        "durations": (clips * network.clip_length).float(),
    }


def traced(network: Answering, sizes: Sizes, free_patches: bool) -> torch.export.ExportedProgram:
    """The network as a graph of PyTorch's own operators, for any sizes.

    Args:
        network: to export.
        sizes: of the call that is recorded.
        free_patches: P is as free as the others.
    """
    least = least_sizes(network, None)
    dim = {
        name: torch.export.Dim.DYNAMIC(min=getattr(least, name), max=most)
        for name, most in MOST.items()
    }
    batch = {0: dim["batch"]}
    video = {**batch, 2: dim["clips"]} | ({3: dim["patches"]} if free_patches else {})
    shapes = {
        "video": video,
        "text": {**batch, 2: dim["words"]},
        **dict.fromkeys(("video_lengths", "text_lengths", "durations"), batch),
    }
    inputs = tuple(made_up(network, sizes).values())
    with torch.no_grad(), use_implementation(*PLAIN), _quiet():
        return torch.export.export(
            network,
            inputs,
            dynamic_shapes=shapes,
            strict=False,
            # Sizes of strided streams divide each other, which it cannot prove.
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def expected(network: Answering, inputs: Inputs) -> Answers:
    """The answers of the network itself, without an export, by the references in fp32."""
    with torch.no_grad(), use_implementation(*PLAIN):
        answers = network(**inputs)
    return {name: value.numpy() for name, value in answers.items()}


def write_pt2(program: torch.export.ExportedProgram, path: Path, outputs: list[str]) -> Run:
    """Write a program for `torch.export.load`, and load it."""
    torch.export.save(program, path)
    module = torch.export.load(path).module()

    def run(inputs: Inputs) -> Answers:
        with torch.no_grad():
            found = module(*inputs.values())
        return {name: found[name].numpy() for name in outputs}

    return run


def write_onnx(program: torch.export.ExportedProgram, path: Path, outputs: list[str]) -> Run:
    """Write a program as ONNX, and load it into onnxruntime.

    Raises:
        ModuleNotFoundError: a package of `sdst.exporting.formats` is missing.
    """
    from onnxruntime import InferenceSession

    table = {torch.ops.aten.sort.stable: _stable_sort}
    with _quiet():
        written = torch.onnx.export(
            program,
            (),
            dynamo=True,
            output_names=outputs,
            custom_translation_table=table,
            verbose=False,
        )
    assert written is not None  # it is None where a file is named
    written.save(path)
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(inputs: Inputs) -> Answers:
        found = session.run(outputs, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(outputs, map(np.asarray, found), strict=True))

    return run


WRITERS = {"pt2": write_pt2, "onnx": write_onnx}  # by `sdst.exporting.formats`


def compare(found: Answers, reference: Answers, inputs: Inputs) -> float:
    """The greatest difference of answers, of times in units of the video; inf for other shapes."""
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in reference.items()}:
        return float("inf")
    units = np.ones((len(reference["windows"]), 1, 3), np.float32)
    units[:, 0, :2] = inputs["durations"].numpy()[:, None]
    scale = {"windows": units}
    differences = [
        np.abs(found[name] - value) / scale.get(name, 1.0) for name, value in reference.items()
    ]
    return float(np.max([x.max() for x in differences]))  # NaN where one is


def _stable_sort(
    self: Any, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> Any:
    """`torch.sort(stable=True)` in ONNX, which has none: of equals TopK takes the lower index."""
    from onnxscript import opset18

    op: Any = opset18
    size = op.Reshape(op.Gather(op.Shape(self), dim), op.Constant(value_ints=[1]))
    return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's hints for who writes a network."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
