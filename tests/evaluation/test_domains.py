"""TVSum and YouTube Highlights figures against the definitions, written out another way."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from statistics import mean, median_low

import numpy as np
import pytest
from scipy.integrate import trapezoid

from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError
from sdst.evaluation.domains import evaluate_tvsum, evaluate_youtube


def labelled(qid: str, domain: str, labels: np.ndarray) -> Annotation:
    """A video [L, A] clips by annotators."""
    rows = tuple(map(tuple, labels.tolist()))
    return Annotation(qid, domain, qid, float(len(rows)), labels=rows, domain=domain)


def prediction(scores, qid="v") -> dict:
    return {"qid": qid, "pred_saliency_scores": list(map(float, scores))}


def area(ranked: list[bool]) -> float:
    """The curve's points one by one, integrated by scipy."""
    if not any(ranked):
        return 0.0
    found = [sum(ranked[: n + 1]) for n in range(len(ranked))]
    recall = [0, *(f / found[-1] for f in found)]
    precision = [1, *(f / (n + 1) for n, f in enumerate(found))]
    return trapezoid(precision, recall)


def tvsum(scores: list[list[float]], videos: list[Annotation]) -> float:
    by_domain = []
    pairs = sorted(zip(videos, scores, strict=True), key=lambda pair: pair[0].domain)
    for _, group in groupby(pairs, key=lambda pair: pair[0].domain):
        by_video = []
        for video, row in group:
            best = sorted(range(len(row)), key=lambda clip: -row[clip])[:5]
            by_rater = [
                area([rater[clip] > median_low(rater) for clip in best])
                for rater in zip(*video.labels, strict=True)
            ]
            by_video.append(mean(by_rater))
        by_domain.append(mean(by_video))
    return 100 * mean(by_domain)


def random_videos(rng: np.random.Generator) -> list[Annotation]:
    return [
        labelled(f"v{i}", domain, rng.integers(1, 6, (rng.integers(5, 40), 20)))
        for i, domain in enumerate(["BK", "BK", "VT", "BK", "DS"])
    ]


@pytest.mark.parametrize("seed", range(5))
def test_tvsum_equals_the_definition_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    videos = random_videos(rng)
    scores = [rng.random(len(video.labels)).tolist() for video in videos]
    found = [prediction(row, video.qid) for row, video in zip(scores, videos, strict=True)]
    report = evaluate_tvsum(found, videos)
    assert report["brief"]["mAP"] == pytest.approx(tvsum(scores, videos), abs=0.0051)
    assert list(report["domains"]) == ["BK", "DS", "VT"]


@pytest.mark.parametrize("seed", range(5))
def test_youtube_equals_the_definition_written_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, 50), rng.random(50)
    report = evaluate_youtube([prediction(scores)], [labelled("v", "dog", labels[:, None])])
    expected = 100 * area((labels[np.argsort(-scores)] > 0).tolist())
    assert report == {"brief": {"mAP": report["domains"]["dog"]}, "domains": report["domains"]}
    assert report["brief"]["mAP"] == pytest.approx(expected, abs=0.0051)


def test_domains_weigh_the_same_whatever_their_size() -> None:
    good, bad = np.array([[1], [0]]), np.array([[0], [1]])
    videos = [
        labelled("a", "dog", good),
        labelled("b", "dog", good),
        labelled("c", "ski", bad),
    ]
    report = evaluate_youtube([prediction([2, 1], qid) for qid in "abc"], videos)
    assert report["domains"] == {"dog": 100, "ski": 25}
    assert report["brief"]["mAP"] == 62.5


def test_no_clip_above_the_median_is_0() -> None:
    report = evaluate_tvsum([prediction(range(8))], [labelled("v", "BK", np.ones((8, 20)))])
    assert report["brief"]["mAP"] == 0


def test_the_median_of_an_even_number_is_the_lower_one() -> None:
    """Of 1, 2 the lower median is 1, so the clip rated 2 is positive."""
    report = evaluate_tvsum([prediction([0, 1])], [labelled("v", "BK", np.array([[1], [2]]))])
    assert report["brief"]["mAP"] == 100


@pytest.mark.parametrize("scores", [[5, 1, 0, 9, 9], [5, 1]], ids=["too long", "too short"])
def test_surplus_scores_are_cut_and_clips_without_one_come_last(scores: list[float]) -> None:
    report = evaluate_youtube([prediction(scores)], [labelled("v", "dog", np.eye(3)[:, :1])])
    assert report["brief"]["mAP"] == 100


def test_a_prediction_without_saliency_is_named() -> None:
    windows = {"qid": "v", "pred_relevant_windows": [[0, 1, 1]]}
    with pytest.raises(InputError, match="'v' has no pred_saliency_scores"):
        evaluate_youtube([windows], [labelled("v", "dog", np.ones((3, 1)))])


GOOD = {
    "qid": "v",
    "query": "a dog",
    "vid": "w",
    "duration": 6,  # of TVSum, counts something else
    "domain": "dog",
    "label": [[0], [1]],
}


def test_clip_labels_are_read(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps(GOOD))
    (found,) = read_annotations(file, clip_length=2.0)
    assert found == Annotation("v", "a dog", "w", 4.0, labels=((0,), (1,)), domain="dog")


def test_a_file_for_scoring_needs_labels_and_topics_alone(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text(json.dumps({"qid": 7, "domain": "dog", "label": [[0], [1]]}))
    (found,) = read_annotations(file)
    assert (found.query, found.vid, len(found.labels)) == ("dog", "7", 2)


def test_an_annotation_without_labels_is_named() -> None:
    with pytest.raises(InputError, match="'v' has no label"):
        evaluate_youtube([prediction([1])], [Annotation("v", "a dog", "v", 4.0)])


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ({"label": [[1], [1, 2]]}, "label must be rows of numbers"),
        ({"label": [1, 0]}, "label must be rows of numbers"),
        ({"label": []}, "label must be rows of numbers"),
        ({"label": [["a"]]}, "label must be rows of numbers"),
        ({"label": [[float("nan")]]}, "label must be rows of numbers"),
        ({"domain": 3}, "domain is 3"),
        ({"qid": None}, "qid is None"),
        ({"qid": "v"}, "already used"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_line(
    tmp_path: Path, fault: dict, named: str
) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("\n".join(json.dumps(record) for record in (GOOD, {**GOOD, "qid": 2, **fault})))
    with pytest.raises(InputError, match=named) as error:
        read_annotations(file)
    assert "labels.jsonl:2" in str(error.value)
    assert "\n" not in str(error.value)
