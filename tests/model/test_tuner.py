"""The side-tuner as a whole: shapes, padding, gradients, parameters, saving."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sdst.config import load_config
from sdst.kernels import dequantize, quantize
from sdst.model import SDST, LossConfig, Outputs, grounding_loss
from sdst.model.heads import move_relatively
from sdst.model.sparse import SaliencyMark
from sdst.model.tuner import parameter_count
from tests.model.small import (
    BATCH,
    CLIPS,
    TOKENS,
    WORDS,
    random_inputs,
    random_targets,
    small_config,
)

VARIANTS = [
    {"attention": attention, "context": context, "schedule": schedule}
    for attention in ("rdsa", "deformable", "cross")
    for context in ("none", "sparse")
    for schedule in (None, (4, 2, 1))
]
VARIANTS += [{**variant, "reads": "saliency", "refinement": "relative"} for variant in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=lambda v: "-".join(str(x) for x in v.values()))
def model(request: pytest.FixtureRequest) -> SDST:
    torch.manual_seed(0)
    return SDST(small_config(**request.param)).eval()


def test_outputs_have_the_documented_shapes(model: SDST) -> None:
    outputs = model(*random_inputs(model.config))
    steps, queries, width = 3, 4, 32
    assert outputs.spans.shape == (steps, BATCH, queries, 2)
    assert outputs.scores.shape == (steps, BATCH, queries)
    assert outputs.saliency.shape == (steps, BATCH, CLIPS)
    assert outputs.dense.shape == outputs.visual.shape == (steps, BATCH, CLIPS, width)
    assert outputs.sentence.shape == (steps, BATCH, width)


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_padding_changes_nothing(model: SDST, tokens: int) -> None:
    """Longer padding, filled with garbage, leaves the answers on what is real as they were."""
    video, text, video_lengths, text_lengths = random_inputs(model.config, tokens)
    longer_video = torch.full((BATCH, 3, CLIPS + 5, tokens, 24), 1e3)
    longer_text = torch.full((BATCH, 3, WORDS + 4, 20), -1e3)
    for i in range(BATCH):
        longer_video[i, :, : video_lengths[i]] = video[i, :, : video_lengths[i]]
        longer_text[i, :, : text_lengths[i]] = text[i, :, : text_lengths[i]]
    expected = model(video, text, video_lengths, text_lengths)
    found = model(longer_video, longer_text, video_lengths, text_lengths)
    torch.testing.assert_close(found.spans, expected.spans, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    for i, length in enumerate(video_lengths):
        torch.testing.assert_close(
            found.saliency[:, i, :length], expected.saliency[:, i, :length], rtol=1e-5, atol=1e-5
        )


def test_a_sample_is_answered_the_same_alone_and_in_a_batch(model: SDST) -> None:
    video, text, video_lengths, text_lengths = random_inputs(model.config)
    together = model(video, text, video_lengths, text_lengths)
    clips, words = int(video_lengths[1]), int(text_lengths[1])
    alone = model(
        video[1:2, :, :clips], text[1:2, :, :words], video_lengths[1:2], text_lengths[1:2]
    )
    torch.testing.assert_close(alone.spans[:, 0], together.spans[:, 1], rtol=1e-5, atol=1e-6)


def same_answer(found: Outputs, expected: Outputs) -> None:
    for name in ("spans", "scores", "saliency", "visual"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_one_encoded_video_answers_many_queries(model: SDST, tokens: int) -> None:
    video, text, video_lengths, text_lengths = random_inputs(model.config, tokens)
    encoded = model.encode_video(video[1:2], video_lengths[1:2])
    found = model.answer(encoded, text, text_lengths)
    repeated = video[1:2].repeat(BATCH, 1, 1, 1, 1)
    same_answer(found, model(repeated, text, video_lengths[[1, 1, 1]], text_lengths))


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_queries_may_name_their_videos(model: SDST, tokens: int) -> None:
    video, text, video_lengths, text_lengths = random_inputs(model.config, tokens)
    encoded = model.encode_video(video, video_lengths)
    index = torch.tensor([2, 0, 0])
    found = model.answer(encoded, text, text_lengths, index)
    same_answer(found, model(video[index], text, video_lengths[index], text_lengths))


@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_a_layer_that_serves_all_steps_need_not_be_repeated_in_memory(
    model: SDST, tokens: int
) -> None:
    video, *rest = random_inputs(model.config, tokens)
    once = video[:, :1].expand_as(video)
    same_answer(model(once, *rest), model(once.contiguous(), *rest))


@pytest.mark.parametrize("pooling", ["mean", "prefix"])
@pytest.mark.parametrize("tokens", [1, TOKENS])
def test_a_video_of_int8_is_answered_as_its_floats_are(
    model: SDST, tokens: int, pooling: str
) -> None:
    model.config.pooling = pooling
    video, *rest = random_inputs(model.config, tokens)
    values, scales = quantize(video)
    same_answer(model(values, *rest, scales), model(dequantize(values, scales), *rest))
    # One layer for all steps, and one video for all queries, are there once.
    once, scale = (x[:1, :1].expand(1, 3, *x.shape[2:]) for x in (values, scales))
    encoded = model.encode_video(once, rest[1][:1], scale)
    expected = model.encode_video(dequantize(once, scale), rest[1][:1])
    same_answer(*(model.answer(x, rest[0], rest[2]) for x in (encoded, expected)))


def test_int8_without_scales_is_refused(model: SDST) -> None:
    video, *rest = random_inputs(model.config)
    values, scales = quantize(video)
    with pytest.raises(ValueError, match="scales are missing"):
        model(values, *rest)
    with pytest.raises(ValueError, match="scales are given"):
        model(video, *rest, scales)


@pytest.mark.parametrize(
    ("context", "tokens"), [("none", TOKENS), ("sparse", TOKENS), ("sparse", 1)]
)
def test_a_thousand_queries_share_one_video(context: str, tokens: int) -> None:
    model = SDST(small_config(context=context)).eval()
    video, _, lengths, _ = random_inputs(model.config, tokens)
    shared = model.encode_video(video[:1], lengths[:1]).for_queries(1000)
    kept = [x for x in (shared.tokens, shared.visual) if x is not None]
    assert all((x.shape[1], x.stride(1)) == (1000, 0) for x in kept)
    assert all(step.source.stride(0) == 0 for step in shared.steps or [])


def test_queries_on_several_videos_must_say_which() -> None:
    model = SDST(small_config()).eval()
    video, text, video_lengths, text_lengths = random_inputs(model.config)
    encoded = model.encode_video(video[:2], video_lengths[:2])
    with pytest.raises(ValueError, match="3 queries on 2 videos"):
        model.answer(encoded, text, text_lengths)


def test_every_parameter_gets_a_gradient(model: SDST) -> None:
    outputs = model.train()(*random_inputs(model.config))
    loss, _ = grounding_loss(outputs, random_targets(), LossConfig())
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_outside_points_cost_where_a_reader_samples_points(model: SDST) -> None:
    outputs = model.train()(*random_inputs(model.config))
    loss, terms = grounding_loss(outputs, random_targets(), LossConfig(outside=1.0))
    samples_points = model.config.attention != "cross"
    assert ("outside" in terms) == samples_points
    assert loss.isfinite()


def test_spans_stay_inside_the_video(model: SDST) -> None:
    spans = model(*random_inputs(model.config)).spans
    assert ((spans >= 0) & (spans <= 1)).all()


def test_references_pass_from_step_to_step_without_gradient() -> None:
    model = SDST(small_config())
    carries_gradient = []
    model.sparse_block.register_forward_pre_hook(
        lambda module, inputs: carries_gradient.append(inputs[1].requires_grad)
    )
    model(*random_inputs(model.config))
    assert carries_gradient == [True, False, False]


@pytest.mark.parametrize("refinement", ["logit", "relative"])
def test_references_start_where_they_were(refinement: str) -> None:
    """The boundary head's last layer is zero, so the first answer is the learned R^0."""
    model = SDST(small_config(refinement=refinement)).eval()
    spans = model(*random_inputs(model.config)).spans
    torch.testing.assert_close(spans[-1, 0], model.queries.reference_logits.sigmoid())


def test_relative_moves_are_in_units_of_the_reference() -> None:
    references = torch.tensor([[0.5, 0.2], [0.5, 0.02]])
    by = torch.tensor([1.0, math.log(3)])  # half the way up: 4 / 2
    expected = torch.tensor([[0.6, 0.4], [0.51, 0.04]])
    torch.testing.assert_close(move_relatively(by.expand(2, 2), references), expected)


def test_a_reference_that_ran_against_an_end_is_led_back() -> None:
    by = torch.tensor([[9.0, 9.0]], requires_grad=True)
    moved = move_relatively(by, torch.tensor([[0.9, 0.5]]))
    assert moved.tolist() == [[1.0, 1.0]]
    moved[0, 0].backward()
    assert by.grad[0, 0] > 0


def test_no_gradient_flows_from_what_moment_queries_read_into_saliency() -> None:
    """Through z, that is: with D itself cut off, only the learned vector is reached."""
    mark = SaliencyMark(8)
    dense = torch.randn(2, 5, 8)
    sentence = torch.randn(2, 8, requires_grad=True)
    mark(dense, sentence, torch.tensor([5, 3])).square().sum().backward()
    assert sentence.grad is None
    assert mark.direction.grad.any()


def test_reading_saliency_is_one_vector_more_and_without_it_the_papers_block() -> None:
    torch.manual_seed(0)
    dense = SDST(small_config()).eval()
    torch.manual_seed(0)
    saliency = SDST(small_config(reads="saliency")).eval()
    assert saliency.state_dict().keys() - dense.state_dict().keys() == {"mark.direction"}
    assert all(torch.equal(x, saliency.state_dict()[n]) for n, x in dense.state_dict().items())
    inputs = random_inputs(dense.config)
    assert not torch.equal(saliency(*inputs).scores, dense(*inputs).scores)
    nn.init.zeros_(saliency.mark.direction)
    assert torch.equal(saliency(*inputs).scores, dense(*inputs).scores)


@pytest.mark.parametrize("attend", [True, False])
def test_queries_know_of_each_other_by_their_attention_alone(attend: bool) -> None:
    torch.manual_seed(0)
    model = SDST(small_config(query_attention=attend)).eval()
    inputs = random_inputs(model.config)
    before = model(*inputs).class_logits
    with torch.no_grad():
        model.queries.embedding[0] += 1
    after = model(*inputs).class_logits
    assert not torch.equal(after[:, :, 0], before[:, :, 0])
    assert torch.equal(after[:, :, 1:], before[:, :, 1:]) == (not attend)


def test_context_none_reads_only_the_pooled_clip() -> None:
    config = small_config(context="none", pooling="mean")
    model = SDST(config).eval()
    video, *rest = random_inputs(config)
    found = model(video, *rest)
    expected = model(video.mean(3, keepdim=True), *rest)
    torch.testing.assert_close(found.spans, expected.spans)


def test_the_papers_configuration_has_about_its_4_1_million_parameters() -> None:
    model = SDST(load_config("qvhighlights_internvideo2").model)
    assert sum(parameter_count(model).values()) == pytest.approx(4.1e6, rel=0.02)


def test_saved_and_loaded_it_answers_the_same(model: SDST, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    loaded = SDST.from_pretrained(str(tmp_path)).eval()
    assert loaded.config == model.config
    inputs = random_inputs(model.config)
    assert torch.equal(loaded(*inputs).spans, model(*inputs).spans)


def test_features_of_another_width_are_refused_with_both_shapes() -> None:
    model = SDST(small_config())
    video, *rest = random_inputs(model.config)
    with pytest.raises(ValueError, match=r"\[B, 3, L, P, 24\]"):
        model(video[..., :10], *rest)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, "not a multiple of model.heads"),
        ({"schedule": (2, 1)}, "expected one per step"),
        ({"schedule": (4, 2, 2)}, "end at 1"),
        ({"queries": 0}, "model.queries is 0"),
    ],
)
def test_numbers_that_build_no_model_are_named(change: dict, message: str) -> None:
    assert any(message in problem for problem in small_config(**change).problems())
