"""The official figures, to the last digit, and every trap on the way to them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError
from sdst.evaluation import evaluate, read_predictions, write_predictions


def annotation(windows=((2.0, 6.0),), qid=1, duration=20.0, **more) -> Annotation:
    return Annotation(qid, "a query", "v", duration, tuple(windows), **more)


def prediction(windows, qid=1, saliency=None) -> dict:
    record = {"qid": qid, "query": "a query", "vid": "v", "pred_relevant_windows": windows}
    return record if saliency is None else {**record, "pred_saliency_scores": saliency}


def rated(clips: dict[int, tuple[int, int, int]], **more) -> Annotation:
    return annotation(clip_ids=tuple(clips), saliency=tuple(clips.values()), **more)


def assert_contains(found: dict, expected: dict, path: str = "") -> None:
    for key, value in expected.items():
        if isinstance(value, dict):
            assert_contains(found[key], value, f"{path}/{key}")
        else:
            assert found[key] == value, f"{path}/{key}"


def test_the_official_sample_is_reproduced_figure_for_figure(shared_data: Path) -> None:
    folder = shared_data / "qvhighlights"
    start = time.perf_counter()
    report = evaluate(
        read_predictions(folder / "sample_val_preds.jsonl"),
        read_annotations(folder / "highlight_val_release.jsonl"),
    )
    assert time.perf_counter() - start < 10
    official = json.loads((folder / "sample_val_preds_metrics_raw.json").read_text())
    assert_contains(report, official)


def test_figures_of_published_predictions_are_the_official_ones(shared_data: Path) -> None:
    """Predictions of the validation set that peers publish beside their evaluator's output."""
    folder = shared_data / "qvhighlights"
    published = sorted((folder / "published").glob("*_preds.jsonl"))
    if not published:
        pytest.skip(f"{folder / 'published'} holds no *_preds.jsonl")
    truth = read_annotations(folder / "highlight_val_release.jsonl")
    for file in published:
        official = file.with_name(file.name.replace("_preds.jsonl", "_metrics.json"))
        report = evaluate(read_predictions(file), truth, source=file.name)
        assert_contains(report, json.loads(official.read_text()), file.name)


def test_a_perfect_submission_scores_100() -> None:
    truth = [annotation(((2.0, 6.0), (10.0, 14.0)))]
    report = evaluate([prediction([[2, 6, 0.9], [10, 14, 0.8]])], truth)
    assert report["brief"]["MR-full-mAP"] == report["R1@0.7"] == report["mIoU"] == 100


def test_rank_1_is_the_first_window_given_whatever_its_score() -> None:
    report = evaluate([prediction([[12, 16, 0.1], [2, 6, 0.9]])], [annotation()])
    assert report["R1@0.5"] == 0
    assert report["R5@0.5"] == 100


def test_map_ranks_the_first_ten_windows_by_score() -> None:
    late = [[12, 16, 0.1]] * 10 + [[2, 6, 0.9]]
    early = [[12, 16, 0.1]] * 9 + [[2, 6, 0.9]]
    assert evaluate([prediction(late)], [annotation()])["brief"]["MR-full-mAP"] == 0
    assert evaluate([prediction(early)], [annotation()])["brief"]["MR-full-mAP"] == 100


def test_a_window_on_the_threshold_counts() -> None:
    assert evaluate([prediction([[2, 4, 1.0]])], [annotation()])["R1@0.5"] == 100


def test_a_moment_is_found_once() -> None:
    """The second window on the same moment is a false positive: AP (1 + 2/3) / 2 of two moments."""
    truth = [annotation(((2.0, 6.0), (10.0, 14.0)))]
    report = evaluate([prediction([[2, 6, 0.9], [2, 6, 0.8], [10, 14, 0.7]])], truth)
    assert report["brief"]["MR-full-mAP"] == pytest.approx(100 * (1 + 2 / 3) / 2, abs=0.01)


def test_lengths_filter_the_truth_and_keep_every_prediction() -> None:
    truth = [annotation(((0.0, 5.0), (20.0, 50.0)), duration=60.0)]
    report = evaluate([prediction([[20, 50, 0.9], [0, 5, 0.8]])], truth)
    assert report["brief"]["MR-middle-mAP"] == 100
    assert report["brief"]["MR-short-mAP"] == 50


def test_a_querys_figures_do_not_depend_on_the_queries_beside_it() -> None:
    """Queries are computed together, padded to one number of windows and of moments."""
    rng = np.random.default_rng(0)
    truth, found = [], []
    for qid in range(30):
        spans = np.sort(rng.uniform(0, 20, (rng.integers(1, 4), 2))).round(1)
        spans[:, 1] += 0.1
        near = np.repeat(spans, rng.integers(1, 6), axis=0) + rng.normal(0, 0.4, 2)
        scores = rng.normal(-1, 1, (len(near), 1))  # also below the padding's
        truth.append(annotation(map(tuple, spans.tolist()), qid, duration=21.0))
        found.append(prediction(np.hstack((np.sort(near), scores)).tolist(), qid))
    together = evaluate(found, truth)
    alone = [evaluate([p], [a]) for p, a in zip(found, truth, strict=True)]
    for name in ("R1@0.5", "R5@0.7", "mIoU"):
        assert together[name] == pytest.approx(np.mean([r[name] for r in alone]), abs=0.011)
    mean_ap = np.mean([r["brief"]["MR-full-mAP"] for r in alone])
    assert together["brief"]["MR-full-mAP"] == pytest.approx(mean_ap, abs=0.011)
    assert 10 < mean_ap < 90


def test_hit_at_1_takes_the_first_of_equal_clips_and_the_best_rater() -> None:
    truth = [rated({1: (1, 1, 4), 2: (4, 4, 4)})]
    flat = evaluate([prediction([[2, 6, 1.0]], saliency=[0.0] * 10)], truth)
    first = evaluate([prediction([[2, 6, 1.0]], saliency=[0.0, 1.0, 1.0] + [0.0] * 7)], truth)
    assert flat["brief"]["HL-min-VeryGood-Hit1"] == 0
    assert first["brief"]["HL-min-VeryGood-Hit1"] == 100


def test_missing_saliency_scores_count_as_zero_and_surplus_ones_are_cut() -> None:
    truth = [rated({1: (4, 4, 4)})]
    short, long = [0.1, 0.9], [0.1, 0.9] + [0.0] * 8 + [5.0]
    for saliency in (short, long):
        report = evaluate([prediction([[2, 6, 1.0]], saliency=saliency)], truth)
        assert report["HL-min-Good"]["HL-mAP"] == 100


def test_a_most_salient_clip_behind_the_video_is_a_miss() -> None:
    saliency = [0.1, 0.9] + [0.0] * 8 + [5.0]
    report = evaluate([prediction([[2, 6, 1.0]], saliency=saliency)], [rated({1: (4, 4, 4)})])
    assert report["HL-min-Good"]["HL-Hit1"] == 0


def test_without_saliency_labels_highlights_are_left_out() -> None:
    report = evaluate([prediction([[2, 6, 1.0]])], [annotation()])
    assert not any(key.startswith("HL") for key in report["brief"])


def test_the_clip_length_decides_how_many_clips_there_are() -> None:
    truth = [rated({15: (4, 4, 4)})]
    scores = [0.0] * 15 + [1.0] + [0.0] * 4
    report = evaluate([prediction([[2, 6, 1.0]], saliency=scores)], truth, clip_length=1.0)
    assert report["brief"]["HL-min-VeryGood-Hit1"] == 100


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([prediction([])], "1.* has no pred_relevant_windows"),
        ([prediction([[0, float("nan"), 1]])], "NaN"),
        ([prediction([[6, 2, 1]])], "ends before it starts"),
        ([prediction([[2, 6]])], r"\[\[start, end, score\]"),
        ([prediction([[2, 6, 1]], qid=7)], "qid 7 is not in the annotations"),
        ([prediction([[2, 6, 1]]), prediction([[2, 6, 1]])], "second time"),
        ([], "missing|nothing|no predictions"),
    ],
)
def test_a_wrong_submission_is_one_line(records: list[dict], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        evaluate(records, [annotation()])
    assert "\n" not in str(error.value)


def test_a_submission_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "predictions.jsonl"
    with pytest.raises(InputError):
        write_predictions(target, [prediction([[2, 6, 1]]), prediction([[6, 2, 1]], qid=2)])
    assert list(tmp_path.iterdir()) == []


def test_thousands_of_queries_take_seconds() -> None:
    rng = np.random.default_rng(0)
    ends = np.sort(rng.uniform(0, 100, (17_505, 11, 2)), axis=-1)
    truth = [annotation([tuple(e[0])], qid=i, duration=100.0) for i, e in enumerate(ends)]
    found = [
        prediction([[*map(float, w), 1.0 - j / 10] for j, w in enumerate(e[1:])], qid=i)
        for i, e in enumerate(ends)
    ]
    start = time.perf_counter()
    evaluate(found, truth)
    assert time.perf_counter() - start < 20
