"""Answers of graphs are those of the model; what is padded changes none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdst import Grounder
from sdst.grounding import graphs
from sdst.grounding.graphs import AnswerGraphs
from sdst.model import SDST, EncodedVideo, Outputs
from tests.graphs import Rerun, refuse
from tests.model.small import BATCH, VARIANTS, make_model, random_inputs
from tests.untrained import QUERIES


def encoded(model: SDST, videos: int) -> tuple[EncodedVideo, Tensor, Tensor]:
    """Videos of 11, 7 and 1 clips, and three sentences of 6, 2 and 1 words."""
    video, text, lengths, words = random_inputs(model.config)
    return model.encode_video(video[:videos], lengths[:videos]), text, words


def assert_near(found: Outputs, expected: Outputs, lengths: Tensor) -> None:
    for name in ("spans", "scores", "peaks", "fit"):
        one, other = (torch.as_tensor(getattr(x, name)) for x in (found, expected))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)
    assert found.saliency.shape == expected.saliency.shape
    for row, length in enumerate(lengths.expand(BATCH).tolist()):
        curves = (x.saliency[:, row, :length] for x in (found, expected))
        torch.testing.assert_close(*curves, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("videos", [1, BATCH], ids=["one video", "a video each"])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
@torch.inference_mode()
def test_answers_of_a_graph_are_those_of_the_model(variant: dict, videos: int) -> None:
    """Three queries are padded to four, 11 clips to 16 and 6 words to 8."""
    model = make_model(variant).eval()
    video, text, words = encoded(model, videos)
    expected = model.answer(video, text, words, every_step=False)
    answers = AnswerGraphs(model, Rerun)
    for call in range(4):
        assert_near(answers.answer(video, text, words), expected, video.lengths)
        assert len(answers) == min(call, 1)


@torch.inference_mode()
def test_a_graph_answers_about_another_video_and_fewer_queries() -> None:
    model = make_model(VARIANTS[0]).eval()
    answers = AnswerGraphs(model, Rerun)
    one, text, words = encoded(model, 1)
    for _ in range(3):
        kept = answers.answer(one, text, words)
    before = kept.spans.clone()
    raw, _, lengths, _ = random_inputs(model.config)
    other = model.encode_video(raw[1:2, :, :9], lengths[1:2])
    for video, some in ((other, slice(3)), (one, slice(3)), (other, slice(1, 3))):
        found = answers.answer(video, text[some], words[some])
        expected = model.answer(video, text[some], words[some], every_step=False)
        torch.testing.assert_close(found.spans, expected.spans, rtol=1e-4, atol=1e-5)
        assert found.saliency.shape == expected.saliency.shape
    assert torch.equal(kept.spans, before), "an answer is the caller's"


@torch.inference_mode()
def test_padding_does_not_bring_a_video_under_a_window() -> None:
    model = make_model({"attention": "rdsa", "context": "none", "layers": 1, "window": 11}).eval()
    video, text, words = encoded(model, 1)
    expected = model.answer(video, text, words, every_step=False)
    answers = AnswerGraphs(model, Rerun)
    for _ in range(3):
        assert_near(answers.answer(video, text, words), expected, video.lengths)


@torch.inference_mode()
def test_graphs_used_long_ago_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "GRAPHS_KEPT", 2)
    model = make_model(VARIANTS[1]).eval()
    answers = AnswerGraphs(model, Rerun)
    video, text, words = encoded(model, 1)
    for count in (1, 2, 3):
        for _ in range(2):
            answers.answer(video, text[:count], words[:count])
    assert len(answers) == 2


@torch.inference_mode()
def test_answers_go_on_eagerly_where_none_can_be_captured(caplog) -> None:
    model = make_model(VARIANTS[1]).eval()
    answers = AnswerGraphs(model, refuse)
    video, text, words = encoded(model, 1)
    expected = model.answer(video, text, words, every_step=False)
    for _ in range(4):
        assert_near(answers.answer(video, text, words), expected, video.lengths)
    assert caplog.text.count("answers are computed eagerly from here on") == 1


@pytest.mark.parametrize("stretch", [40, 8], ids=["whole", "in windows"])
def test_windows_of_a_grounder_in_graphs_are_the_eager_ones(
    untrained: Path, own_cache: Path, film: Path, stretch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Grounder(untrained, "cpu")
    found.graphs = AnswerGraphs(found.model, Rerun)
    expected = Grounder(untrained, "cpu")
    for grounder in (found, expected):
        monkeypatch.setattr(grounder.config.predict, "stretch", stretch)
        monkeypatch.setattr(grounder.config.predict, "overlap", stretch // 2)
    found.warm(queries=(2,))
    assert len(found.graphs)
    for _ in range(3):
        for one, other in zip(
            found.ground(film, QUERIES), expected.ground(film, QUERIES), strict=True
        ):
            np.testing.assert_allclose(one.windows, other.windows, atol=1e-3)
            np.testing.assert_allclose(one.saliency, other.saliency, atol=1e-4)
