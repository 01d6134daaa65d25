"""Each dataset's own way to count, on windows whose figures are known by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sdst.data.annotations import Annotation, read_annotations
from sdst.evaluation.protocols import PROTOCOLS
from sdst.evaluation.report import FIGURES

REAL = {
    "nlq/nlq_val.jsonl": ("ego4d-nlq", 3533),
    "nlq/nlq_train.jsonl": ("ego4d-nlq", 10328),
    "tacos/tacos_test_release.jsonl": ("tacos", 4001),
    "activitynet/activitynet_val_release.jsonl": ("activitynet", 17505),
    "charades/charades_test_release.jsonl": ("charades", 3720),
    "qvhighlights/highlight_test_with_gt.jsonl": ("qvhighlights", 1542),
}
OF_CLIPS = {"tvsum/tvsum_val.jsonl": "tvsum", "youtube/youtube_valid.jsonl": "youtube"}


def annotation(*windows: tuple[float, float], qid: int = 0, duration: float = 100.0) -> Annotation:
    return Annotation(qid, "a query", "v", duration, windows)


def predict(*windows: list[float], qid: int = 0) -> dict:
    scored = [[*window, 1 - i / 100] for i, window in enumerate(windows)]
    return {"qid": qid, "query": "a query", "vid": "v", "pred_relevant_windows": scored}


def score(name: str, predictions: list[dict], truth: list[Annotation]) -> dict:
    return PROTOCOLS[name].score(predictions, truth, PROTOCOLS[name].clip_length)


@pytest.mark.parametrize("file", REAL)
def test_the_truth_itself_scores_100(file: str, shared_data: Path) -> None:
    name, count = REAL[file]
    truth = read_annotations(shared_data / file)
    assert len(truth) == count
    found = [predict(*map(list, a.windows or ()), qid=a.qid) for a in truth]
    report = score(name, found, truth)
    of_recall = [label for label in PROTOCOLS[name].headline if label.startswith(("R", "mIoU"))]
    assert of_recall
    assert {report[label] for label in of_recall} == {100}


@pytest.mark.parametrize("file", [file for file in REAL if "train" not in file])
def test_two_thirds_of_every_moment_score_what_they_must(file: str, shared_data: Path) -> None:
    """An IoU of 2/3 for each query's first window: above 0.3 and 0.5, below 0.7."""
    name, _ = REAL[file]
    truth = [a for a in read_annotations(shared_data / file) if len(a.windows or ()) == 1]
    found = []
    for a in truth:
        [(start, end)] = a.windows or ()
        found.append(predict([start, start + (end - start) * 2 / 3], qid=a.qid))
    report = score(name, found, truth)
    assert report["R1@0.5"] == 100
    assert report["R1@0.7"] == 0
    assert report["mIoU"] == 66.67


@pytest.mark.parametrize("file", OF_CLIPS)
def test_the_labels_themselves_score_what_annotators_agree_on(file: str, shared_data: Path) -> None:
    """YouTube has one annotator, whom a perfect ranking pleases; TVSum's twenty do not agree."""
    name = OF_CLIPS[file]
    truth = read_annotations(shared_data / file)
    means = [np.mean(a.labels or (), axis=1).tolist() for a in truth]
    found = [
        {"qid": a.qid, "query": a.query, "vid": a.vid, "pred_saliency_scores": scores}
        for a, scores in zip(truth, means, strict=True)
    ]
    report = PROTOCOLS[name].score(found, truth, None)
    assert report["brief"]["mAP"] == 100 if name == "youtube" else report["brief"]["mAP"] > 60


def test_ego4d_counts_what_is_above_a_threshold_alone() -> None:
    truth, found = [annotation((0, 10))], [predict([0, 5], [0, 3])]
    assert score("ego4d-nlq", found, truth)["R1@0.5"] == 0
    assert score("ego4d-goalstep", found, truth)["R1@0.5"] == 0
    assert score("activitynet", found, truth)["R1@0.5"] == 100
    assert score("ego4d-nlq", found, truth)["R1@0.3"] == 100


def test_ego4ds_first_five_windows_count() -> None:
    away = [50.0, 60.0]
    fifth, sixth = predict(*[away] * 4, [0, 9]), predict(*[away] * 5, [0, 9])
    assert score("ego4d-nlq", [fifth], [annotation((0, 10))])["R5@0.5"] == 100
    assert score("ego4d-nlq", [sixth], [annotation((0, 10))])["R5@0.5"] == 0


def test_mad_reports_up_to_the_first_hundred_windows() -> None:
    found = [predict(*[[50.0, 60.0]] * 49, [0, 10])]
    report = score("mad", found, [annotation((8, 18))])  # an IoU of 2 / 18
    assert (report["R10@0.1"], report["R50@0.1"], report["R100@0.1"]) == (0, 100, 100)
    assert report["R100@0.3"] == 0


def test_tvr_compares_in_single_precision() -> None:
    """Half of a moment but for 1e-9 s is half of it in fp32."""
    truth = [annotation((0, 0.2), duration=10.0)]
    assert score("tvr", [predict([0, 0.1 - 1e-9])], truth)["R1@0.5"] == 100
    assert score("custom", [predict([0, 0.1 - 1e-9])], truth)["R1@0.5"] == 0


def test_hirest_wants_more_than_the_threshold() -> None:
    assert score("hirest", [predict([0, 5])], [annotation((0, 10))])["R1@0.5"] == 0
    assert score("hirest", [predict([0, 5.1])], [annotation((0, 10))])["R1@0.5"] == 100


def test_nextgqa_asks_how_much_of_a_window_is_in_a_moment() -> None:
    truth = [annotation((0, 10), (20, 30)), annotation((0, 10), qid=1), annotation((0, 10), qid=2)]
    found = [predict([18, 28]), predict([0, 40], qid=1), predict([50, 60], qid=2)]
    report = score("nextgqa", found, truth)  # 0.8, 0.25 and 0
    assert report["mIoP"] == pytest.approx(100 * (0.8 + 0.25) / 3, abs=0.01)
    assert report["IoP@0.3"] == report["IoP@0.5"] == 33.33
    assert report["mIoU"] == pytest.approx(100 * (8 / 12 + 0.25) / 3, abs=0.01)


def test_didemo_ranks_segments_for_the_three_annotators_who_agree_best() -> None:
    chosen = annotation((5, 10), (5, 10), (5, 10), (20, 25), duration=30.0)
    report = score("didemo", [predict([5.4, 9.8], [19, 26])], [chosen])
    assert (report["Rank@1"], report["Rank@5"], report["mIoU"]) == (100, 100, 100)
    report = score("didemo", [predict([19, 26], [20, 24], [5, 10])], [chosen])
    # Ranks of the three: 1, of [20, 25]; 2 and 2, as the second window is the first's segment.
    assert (report["Rank@1"], report["Rank@5"]) == (0, 100)
    assert report["mIoU"] == 33.33
    report = score("didemo", [predict([5, 15])], [chosen])
    assert (report["Rank@1"], report["Rank@5"]) == (0, 0)
    assert report["mIoU"] == 50


def test_every_headline_is_a_figure_of_the_report() -> None:
    for protocol in PROTOCOLS.values():
        assert set(protocol.headline) <= FIGURES.keys()
        if protocol.by_domain is None and not any("H" in label for label in protocol.headline):
            report = protocol.score([predict([0, 9])], [annotation((0, 10))], 1.0)
            keys = {FIGURES[label] for label in protocol.headline}
            assert keys <= {**report, **report["brief"]}.keys()
            assert all(math.isfinite(value) for value in report["brief"].values())
