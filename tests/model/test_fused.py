"""The blocks as row programs against the modules, and when they serve."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sdst.kernels import library, use_implementation
from sdst.model import SDST, ModelConfig, Outputs
from sdst.model.fused import Blocks
from tests.processor import needs_bf16

pytestmark = pytest.mark.skipif(
    library.missing_reason() is not None, reason=str(library.missing_reason())
)
BATCH, CLIPS, TOKENS, WORDS = 4, 11, 3, 6
VIDEO_LENGTHS, TEXT_LENGTHS = torch.tensor([11, 7, 1, 10]), torch.tensor([6, 2, 1, 5])
CONFIG = ModelConfig(
    layers=3,
    video_width=24,
    text_width=20,
    width=36,
    queries=5,
    heads=4,
    points=3,
    context_tokens=12,
    context_strides=(1, 2, 4),
    context_segments=2,
    pooled_tokens=2,
)


def make_model(**changes: object) -> SDST:
    torch.manual_seed(0)
    model = SDST(dataclasses.replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # what starts at zero shows nothing
            weight.add_(0.05 * torch.randn_like(weight))
    return model


def inputs(model: SDST, tokens: int = TOKENS) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    config = model.config
    video = torch.randn(
        BATCH, config.layers, CLIPS, tokens, config.video_width, generator=generator
    )
    text = torch.randn(BATCH, config.layers, WORDS, config.text_width, generator=generator)
    return video, text, VIDEO_LENGTHS, TEXT_LENGTHS


@torch.no_grad()
def by_programs(model: SDST, *arguments: Tensor) -> Outputs:
    assert isinstance(model.for_inference()._blocks(), Blocks)
    return model(*arguments)


@torch.no_grad()
def by_modules(model: SDST, *arguments: Tensor) -> Outputs:
    with use_implementation("reference"):
        assert model._blocks() is model
        return model(*arguments)


def assert_close(found: Outputs, expected: Outputs) -> None:
    """Equal but for rounding, and beyond the videos, where nothing is defined."""
    real = torch.arange(CLIPS) < VIDEO_LENGTHS[:, None]
    for field in dataclasses.fields(Outputs):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name in ("saliency", "dense", "visual"):
            a, b = a[:, real], b[:, real]
        torch.testing.assert_close(
            a, b, rtol=1e-4, atol=1e-5, msg=lambda m, f=field.name: f"{f} {m}"
        )


@pytest.mark.parametrize("tokens", [1, TOKENS])
@pytest.mark.parametrize("schedule", [None, (4, 2, 1)])
@pytest.mark.parametrize("context", ["none", "sparse"])
@pytest.mark.parametrize("reads", ["dense", "saliency"])
def test_programs_say_what_modules_say(
    reads: str, context: str, schedule: tuple[int, ...] | None, tokens: int
) -> None:
    ours = {"refinement": "relative"} if reads == "saliency" else {}
    model = make_model(reads=reads, context=context, schedule=schedule, **ours)
    arguments = inputs(model, tokens)
    assert_close(by_programs(model, *arguments), by_modules(model, *arguments))


@needs_bf16
@pytest.mark.parametrize("schedule", [None, (4, 2, 1)])
@pytest.mark.parametrize("context", ["none", "sparse"])
@pytest.mark.parametrize("reads", ["dense", "saliency"])
def test_under_autocast_programs_are_near_the_modules_in_fp32(
    reads: str, context: str, schedule: tuple[int, ...] | None
) -> None:
    model = make_model(reads=reads, context=context, schedule=schedule)
    arguments = inputs(model)
    expected = by_modules(model, *arguments)
    with torch.autocast("cpu", torch.bfloat16):
        found = by_programs(model, *arguments)
        modules = by_modules(model, *arguments)
    real = torch.arange(CLIPS) < VIDEO_LENGTHS[:, None]
    for name in ("spans", "scores", "saliency", "dense"):
        x, y, z = (getattr(outputs, name) for outputs in (found, expected, modules))
        if name in ("saliency", "dense"):
            x, y, z = x[:, real], y[:, real], z[:, real]
        assert x.dtype == torch.float32
        error = (x - y).norm() / y.norm()
        assert 0 < error < 0.01
        assert error < 1.5 * (z - y).norm() / y.norm()  # no further than PyTorch's own bf16
    # What was made under autocast serves in fp32 as if it never had been.
    assert_close(by_programs(model, *arguments), expected)


@pytest.mark.parametrize("window", [3, CLIPS])
def test_a_window_narrower_than_the_video_stays_with_the_module(window: int) -> None:
    model = make_model(window=window, global_tokens=2)
    arguments = inputs(model)
    assert_close(by_programs(model, *arguments), by_modules(model, *arguments))


def test_many_queries_on_one_video() -> None:
    model = make_model().for_inference()
    video, text, _, words = inputs(model)
    with torch.no_grad():
        encoded = model.encode_video(video[:1], VIDEO_LENGTHS[:1])
        together = model.answer(encoded, text, words)
        for i in range(BATCH):
            alone = model.answer(encoded, text[i : i + 1], words[i : i + 1])
            torch.testing.assert_close(together.spans[:, i], alone.spans[:, 0])
            torch.testing.assert_close(together.saliency[:, i], alone.saliency[:, 0])


@pytest.mark.parametrize("schedule", [None, (4, 2, 1)])
@pytest.mark.parametrize("run", [by_programs, by_modules])
def test_the_last_step_alone_is_that_of_all(
    run: Callable[..., Outputs], schedule: tuple[int, ...] | None
) -> None:
    model = make_model(schedule=schedule)
    video, text, lengths, words = inputs(model)
    every = run(model, video, text, lengths, words)
    with torch.no_grad(), use_implementation("reference" if run is by_modules else "auto"):
        last = model.answer(model.encode_video(video, lengths), text, words, every_step=False)
    for name in ("spans", "scores", "saliency", "dense"):
        assert len(getattr(last, name)) == 1
        torch.testing.assert_close(getattr(last, name)[-1], getattr(every, name)[-1])


def test_training_and_loading_end_it() -> None:
    model = make_model()
    arguments = inputs(model)
    before = by_programs(model, *arguments)
    model.train()
    assert model._blocks() is model
    model.for_inference()
    model.load_state_dict({name: 1.1 * x for name, x in model.state_dict().items()})
    with torch.no_grad():
        assert model._blocks() is model
    after = by_programs(model, *arguments)
    assert not torch.equal(before.spans, after.spans)
    assert_close(after, by_modules(model, *arguments))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_programs_of_its_own(copied: Callable[[SDST], SDST]) -> None:
    model = make_model()
    arguments = inputs(model)
    expected = by_programs(model, *arguments)
    other = copied(model)
    with torch.no_grad():
        assert other._blocks() is other
        for weight in other.parameters():
            weight.mul_(1.1)
    assert_close(by_programs(other, *arguments), by_modules(other, *arguments))
    assert torch.equal(by_programs(model, *arguments).spans, expected.spans)


@pytest.mark.parametrize("name", ["query", "key_value", "out"])
def test_an_adapter_is_not_passed_over(name: str) -> None:
    class Doubled(nn.Module):
        """As `peft` wraps a layer: its weight is that of the layer inside."""

        def __init__(self, inside: nn.Linear) -> None:
            super().__init__()
            self.inside, self.weight, self.bias = inside, inside.weight, inside.bias

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inside(x)

    model = make_model()
    before = by_programs(model, *inputs(model))
    attention = model.dense_block.text_attention
    setattr(attention, name, Doubled(getattr(attention, name)))
    with torch.no_grad():
        assert model.for_inference()._blocks() is model
        assert not torch.equal(model(*inputs(model)).spans, before.spans)


def test_the_modules_serve_where_programs_cannot() -> None:
    model = make_model()
    with torch.no_grad():
        assert model._blocks() is model  # nobody said that the weights stay
    model.for_inference()
    assert model._blocks() is model  # a gradient is needed
    with torch.no_grad():
        assert isinstance(model._blocks(), Blocks)
        with torch.autocast("cpu", torch.float16):
            assert model._blocks() is model
        with torch.autocast("cpu", torch.bfloat16), pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "multiplies_bf16", lambda: False)
            assert model._blocks() is model


def other_norm(model: SDST) -> None:
    model.text_projection[0].eps = 1e-6


def half_of_it(model: SDST) -> None:
    model.heads.half()


@pytest.mark.parametrize("change", [SDST.bfloat16, half_of_it, other_norm])
def test_no_programs_are_made_of_what_they_do_not_offer(change: Callable[[SDST], object]) -> None:
    model = make_model()
    change(model)
    with torch.no_grad():
        assert model.for_inference()._blocks() is model
        deformable = make_model(attention="deformable").for_inference()
        assert deformable._blocks() is deformable


def test_weights_made_in_inference_mode_serve() -> None:
    with torch.inference_mode():
        model = make_model().for_inference()  # weights without versions
        assert isinstance(model._blocks(), Blocks)
