"""Long videos: processed in overlapping windows, answered as if they were not."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from sdst.config import PredictConfig
from sdst.grounding.decode import decode
from sdst.grounding.long_videos import MOMENTS_KEPT, _Answer, _batches, ground_long, stretch_starts
from sdst.kernels import dequantize, pyramid, quantize, select_tokens
from sdst.model import SDST, ModelConfig, Outputs
from sdst.model.calibration import Calibration, Logistic
from sdst.model.running_selection import RunningSelection, SelectedTokens

LAYERS, TOKENS, WIDTH = 2, 3, 12
CUT = PredictConfig(stretch=10, overlap=4)
CONTEXTS = [CUT, PredictConfig(stretch=10, overlap=4, select_from="video")]
CONFIG = ModelConfig(
    layers=LAYERS,
    video_width=WIDTH,
    text_width=WIDTH,
    width=16,
    queries=4,
    heads=2,
    context="sparse",
    context_tokens=18,
    pooled_tokens=2,
    schedule=(2, 1),
)


@pytest.fixture(params=["none", "sparse"])
def model(request: pytest.FixtureRequest) -> SDST:
    torch.manual_seed(0)
    return SDST(replace(CONFIG, context=request.param)).eval()


def make_video(clips: int) -> np.ndarray:
    shape = (LAYERS, clips, TOKENS, WIDTH)
    return np.random.default_rng(0).normal(size=shape).astype(np.float16)


def make_texts(count: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(LAYERS, 3 + i, WIDTH, generator=generator) for i in range(count)]


@pytest.mark.parametrize("length", [1, 9, 10, 11, 16, 17, 100])
def test_stretches_cover_the_video_and_overlap(length: int) -> None:
    starts = stretch_starts(length, CUT)
    assert starts[0] == 0
    assert starts[-1] == max(length - 10, 0)
    assert all(0 < b - a <= 6 for a, b in pairwise(starts))


@pytest.mark.parametrize("options", CONTEXTS)
def test_a_video_of_one_stretch_is_answered_as_if_it_were_not_cut(
    model: SDST, options: PredictConfig
) -> None:
    video, texts = make_video(9), make_texts()
    found = ground_long(model, video, texts, 2.0, 17.5, options)
    for answer, text in zip(found, texts, strict=True):
        inputs = torch.from_numpy(video).float()[None], text[None]
        with torch.inference_mode():
            outputs = model(*inputs, torch.tensor([9]), torch.tensor([text.shape[1]]))
        [expected] = decode(outputs, torch.tensor([9]), [17.5], 2.0)
        np.testing.assert_allclose(answer.saliency, expected.saliency, atol=1e-6)
        np.testing.assert_allclose(answer.windows[0], expected.windows[0], atol=1e-5)


@pytest.mark.parametrize("options", CONTEXTS)
def test_how_many_stretches_are_read_at_once_changes_nothing(
    model: SDST, options: PredictConfig, monkeypatch
) -> None:
    call = (model, make_video(50), make_texts(1), 1.0, 50.0, options)
    [together] = ground_long(*call)
    monkeypatch.setattr("sdst.grounding.long_videos.BYTES_AT_ONCE", 1)
    [apart] = ground_long(*call)
    np.testing.assert_allclose(apart.windows, together.windows, atol=1e-5)
    np.testing.assert_allclose(apart.saliency, together.saliency, atol=1e-5)


def test_a_batch_of_stretches_is_what_is_read_of_the_store() -> None:
    """64 MiB of a video of 7 GB, which is a hole in a file and takes no memory."""
    video = np.broadcast_to(np.float16(1), (4, 36_000, 50, 512))
    starts, cut = next(_batches(video, PredictConfig(stretch=75, overlap=25)))
    assert len(starts) == 4
    assert cut(video).nbytes <= 64 * 2**20


@pytest.mark.parametrize("options", CONTEXTS)
def test_a_video_of_int8_is_answered_as_its_floats_are(model: SDST, options: PredictConfig) -> None:
    values, scales = quantize(torch.from_numpy(make_video(40)))
    texts = make_texts()
    call = (texts, 1.0, 40.0, options)
    found = ground_long(model, values.numpy(), *call, scales.numpy())
    for a, b in zip(found, ground_long(model, dequantize(values, scales), *call), strict=True):
        np.testing.assert_allclose(a.windows, b.windows, atol=1e-4)
        np.testing.assert_allclose(a.saliency, b.saliency, atol=1e-5)


def select_in_parts(tokens: torch.Tensor, u: torch.Tensor, clips: int) -> list[SelectedTokens]:
    """The selection from tokens [K, L, P, Dv] when parts of about `clips` are read."""
    running = RunningSelection(CONFIG, u, *tokens.shape[1:3])
    for first, last in running.parts(clips):
        running.add(first, tokens[:, first:last])
    return running.selected()


@pytest.mark.parametrize("clips", [8, 24, 1_000])
@pytest.mark.parametrize("length", [1, 3, 50, 301])
def test_selection_in_parts_is_that_of_the_whole_video(length: int, clips: int) -> None:
    tokens, u = torch.from_numpy(make_video(length)), torch.randn(LAYERS, WIDTH)
    indices, scores, valid = select_tokens(tokens, u, CONFIG.context_tokens)
    lengths = torch.full((LAYERS,), length)
    kept = pyramid.gather(tokens, indices, valid, lengths, CONFIG.context_strides)
    for step, found in enumerate(select_in_parts(tokens, u, clips)):
        torch.testing.assert_close(found.valid[0], valid[step])
        torch.testing.assert_close(found.scores[0], scores[step])
        torch.testing.assert_close(found.tokens[0, :, 0], kept[step])


def test_what_is_held_of_a_video_does_not_grow_with_it() -> None:
    running = RunningSelection(CONFIG, torch.randn(LAYERS, WIDTH), 5_000, TOKENS)
    before = {name: x.shape for name, x in vars(running).items() if isinstance(x, torch.Tensor)}
    part = torch.from_numpy(make_video(8))
    for first, last in running.parts(8):
        assert last - first <= 8
        running.add(first, part[:, : last - first])
    after = {name: x.shape for name, x in vars(running).items() if isinstance(x, torch.Tensor)}
    assert after == before


@pytest.mark.parametrize(("options", "acts"), [(CONTEXTS[0], False), (CONTEXTS[1], True)])
def test_the_end_of_a_video_acts_on_its_start_if_context_is_of_the_video(
    options: PredictConfig, acts: bool
) -> None:
    torch.manual_seed(0)
    model, texts = SDST(CONFIG).eval(), make_texts(1)
    torch.nn.init.normal_(
        model.heads.boundaries[-1].weight
    )  # 0 at first: spans stay where they are
    videos = make_video(40), make_video(40)
    videos[1][:, 32:] *= 3
    found = [ground_long(model, video, texts, 1.0, 40.0, options)[0].windows for video in videos]
    one, other = (np.sort(windows[windows[:, 1] < 9, :2], 0) for windows in found)
    assert np.array_equal(one, other) != acts


def outputs_of(spans: list, scores: list, saliency: list, fit: float | list = 0.0) -> Outputs:
    """Outputs of one step that say what is given: spans as (start, end) shares, [S, M] each."""
    start, end = torch.tensor(spans, dtype=torch.float32).unbind(-1)
    nothing = torch.empty(0)
    return Outputs(
        spans=torch.stack(((start + end) / 2, end - start), -1)[None],
        class_logits=torch.full_like(start, 100.0)[None],
        actionness=torch.tensor(scores)[None],
        saliency=torch.tensor(saliency)[None],
        dense=nothing,
        visual=nothing,
        sentence=nothing,
        scale=torch.tensor(10.0),
        fit=torch.tensor(fit),
    )


def answer_of(length: int, starts: list[int], *outputs: list, overlap: int = 4) -> np.ndarray:
    answer = _Answer(length)
    answer.add(starts, outputs_of(*outputs), overlap)
    return answer.predict(1.0, float(length), CUT).windows


FLAT = [[0.0] * 10] * 2


def test_a_moment_at_an_inner_border_is_left_to_the_neighbour() -> None:
    """[7, 9] reaches the end of [0, 10); the window [6, 16) sees [7, 11], which is the moment."""
    windows = answer_of(16, [0, 6], [[[0.7, 1.0]], [[0.1, 0.5]]], [[0.9], [0.8]], FLAT)
    np.testing.assert_allclose(windows[:, :2], [[7, 11]], atol=1e-5)


def test_the_ends_of_the_video_are_no_borders() -> None:
    windows = answer_of(16, [0, 6], [[[0.0, 0.3]], [[0.8, 1.0]]], [[0.9], [0.8]], FLAT)
    np.testing.assert_allclose(windows[:, :2], [[0, 3], [14, 16]], atol=1e-5)


def test_a_moment_that_no_neighbour_sees_whole_is_kept() -> None:
    windows = answer_of(16, [0, 6], [[[0.0, 1.0]], [[0.9, 0.95]]], [[0.9], [0.1]], FLAT)
    np.testing.assert_allclose(windows[0, :2], [0, 10], atol=1e-5)


def test_what_two_stretches_find_is_kept_once() -> None:
    windows = answer_of(16, [0, 6], [[[0.65, 0.9]], [[0.05, 0.3]]], [[0.8], [0.9]], FLAT)
    np.testing.assert_allclose(windows, [[6.5, 9, 0.9]], atol=1e-5)


def test_the_stretch_whose_saliency_is_higher_wins() -> None:
    saliency = [[0.1] * 10, [0.5] * 10]
    windows = answer_of(16, [0, 6], [[[0.1, 0.3]], [[0.5, 0.7]]], [[0.9], [0.8]], saliency)
    np.testing.assert_allclose(windows[0], [11, 13, 0.8], atol=1e-5)
    np.testing.assert_allclose(windows[1, 2], 0.9 * np.exp(10 * (0.1 - 0.5)), rtol=1e-4)


def test_the_stretch_whose_selected_tokens_fit_better_wins() -> None:
    spans = [[[0.1, 0.3]], [[0.5, 0.7]]]
    windows = answer_of(16, [0, 6], spans, [[0.9], [0.8]], FLAT, [1.0, 2.0])
    np.testing.assert_allclose(windows[0], [11, 13, 0.8], atol=1e-5)
    np.testing.assert_allclose(windows[1, 2], 0.9 * np.exp(0.5 * (1 - 2)), rtol=1e-4)


def test_saliency_fades_from_one_stretch_into_the_next() -> None:
    answer = _Answer(16)
    saliency = [[0.0] * 10, [1.0] * 10]
    answer.add([0, 6], outputs_of([[[0.1, 0.2]]] * 2, [[0.5]] * 2, saliency), 4)
    curve = answer.predict(1.0, 16.0, CUT).saliency
    np.testing.assert_allclose(curve, [0] * 6 + [0.2, 0.4, 0.6, 0.8] + [1] * 6, atol=1e-6)


def test_what_is_kept_is_bounded() -> None:
    answer = _Answer(5_000)
    for start in range(0, 4_990, 6):
        spans = [[[i / 10, i / 10 + 0.05] for i in range(1, 9)]]
        answer.add([start], outputs_of(spans, [[0.5] * 8], [[0.0] * 10]), 4)
    assert len(answer.ends) == len(answer.evidence) == MOMENTS_KEPT


def test_a_long_video_has_what_its_surest_window_has() -> None:
    torch.manual_seed(0)
    model, texts = SDST(CONFIG).eval(), make_texts(2)
    video = make_video(40)
    model.calibration = Calibration(Logistic((20.0,) * CONFIG.layers + (0.0,), -3.0))
    whole = ground_long(model, video, texts, 1.0, 40.0, CUT)
    alone = [
        ground_long(model, video[:, start : start + CUT.stretch], texts, 1.0, 40.0, CUT)
        for start in stretch_starts(40, CUT)
    ]
    for answer, windows in zip(whole, zip(*alone, strict=True), strict=True):
        assert answer.presence == pytest.approx(max(x.presence for x in windows), rel=1e-4)
    assert len({round(x.presence, 6) for windows in alone for x in windows}) > 2
