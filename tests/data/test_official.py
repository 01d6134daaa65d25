"""Annotation files as datasets publish them, one query of each."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sdst.data.annotations import read_annotations
from sdst.errors import InputError

SENTENCE, SPAN = "crack the eggs", [2.0, 5.5]
FILES: dict[str, object] = {
    "activitynet captions": {
        "v_a": {"duration": 30.0, "timestamps": [SPAN], "sentences": [SENTENCE]}
    },
    "goalstep": {
        "version": "1.0",
        "videos": [
            {
                "video_uid": "v_a",
                "start_time": 0.02,
                "end_time": 30.0,
                "segments": [
                    {
                        "start_time": 2.0,
                        "end_time": 5.5,
                        "step_description": SENTENCE,
                        "segments": [],
                    }
                ],
            }
        ],
    },
    "youcook2": {
        "database": {
            "v_a": {
                "duration": 30.0,
                "subset": "validation",
                "annotations": [{"segment": SPAN, "id": 0, "sentence": SENTENCE}],
            },
            "of the test set": {"duration": 3.0, "subset": "testing"},
        }
    },
    "mad": {
        "1": {
            "movie": "v_a",
            "sentence": SENTENCE,
            "timestamps": [2.5, 5.0],
            "ext_timestamps": SPAN,
            "movie_duration": 30.0,
        }
    },
    "hirest": {
        SENTENCE: {
            "v_a.mp4": {"relevant": True, "clip": True, "v_duration": 30.0, "bounds": SPAN},
            "v_b.mp4": {"relevant": True, "clip": False, "v_duration": 30.0, "bounds": []},
        }
    },
    "timelens": {"v_a": {"duration": 30.0, "spans": [SPAN], "queries": [SENTENCE]}},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_as_it_is_published(name: str, indent: int | None, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(FILES[name], indent=indent))
    [found] = read_annotations(tmp_path / "a.json")
    assert (found.vid, found.query, found.windows) == ("v_a", SENTENCE, ((2.0, 5.5),))
    assert found.duration == 30


def test_didemos_segments_are_those_of_every_annotator(tmp_path: Path) -> None:
    query = {"annotation_id": 7, "video": "a.mov", "description": SENTENCE, "num_segments": 6}
    (tmp_path / "a.json").write_text(json.dumps([{**query, "times": [[1, 1], [1, 1], [0, 2]]}]))
    [found] = read_annotations(tmp_path / "a.json")
    assert (found.qid, found.vid, found.duration) == (7, "a.mov", 30)
    assert found.windows == ((5, 10), (5, 10), (0, 15))


def test_tvr_is_read_from_json_lines(tmp_path: Path) -> None:
    line = {"vid_name": "v_a", "duration": 30.0, "ts": SPAN, "desc": SENTENCE, "desc_id": 9}
    public = {key: value for key, value in line.items() if key != "ts"}
    text = f"{json.dumps(line)}\n{json.dumps({**public, 'desc_id': 10})}\n"
    (tmp_path / "a.jsonl").write_text(text)
    labelled, unlabelled = read_annotations(tmp_path / "a.jsonl")
    assert (labelled.qid, labelled.vid, labelled.windows) == (9, "v_a", ((2.0, 5.5),))
    assert unlabelled.windows is None


def test_nextgqas_questions_are_beside_its_moments(tmp_path: Path) -> None:
    moments = {"77": {"duration": 30, "location": {"1": [SPAN, [8, 9]]}, "fps": 29.97}}
    (tmp_path / "gsub_val.json").write_text(json.dumps(moments))
    (tmp_path / "val.csv").write_text(f"video_id,question,answer,qid\n77,{SENTENCE},yes,1\n")
    [found] = read_annotations(tmp_path / "gsub_val.json")
    assert (found.qid, found.query, found.windows) == ("77_1", SENTENCE, ((2.0, 5.5), (8.0, 9.0)))
    (tmp_path / "val.csv").write_text("video_id,question,answer,qid\n")
    with pytest.raises(InputError, match=r"77 question 1: not in .*val.csv"):
        read_annotations(tmp_path / "gsub_val.json")


def test_moments_beyond_a_video_are_cut_or_left_out_and_counted(tmp_path: Path) -> None:
    spans = [[2, 99], [-1, 5], [40, 50], [7, 7], [9, 8]]
    video = {"duration": 30.0, "timestamps": spans, "sentences": [SENTENCE] * len(spans)}
    (tmp_path / "a.json").write_text(json.dumps({"v_a": video}))
    repairs: Counter[str] = Counter()
    found = read_annotations(tmp_path / "a.json", repairs)
    assert [a.windows for a in found] == [((2, 30),), ((0, 5),), ((8, 9),)]
    assert repairs == {
        "moments cut to the video": 3,
        "moments outside of the video or without length left out": 2,
    }


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"v_a": {"duration": 3}}, "one JSON value of no known dataset"),
        ([1, 2], "one JSON value of no known dataset"),
        ({"v_a": {"duration": "long", "timestamps": [SPAN], "sentences": ["x"]}}, "duration is"),
        ({"v_a": {"duration": 9, "timestamps": [[1]], "sentences": ["x"]}}, "expected \\[start"),
        ({"v_a": {"duration": 9, "timestamps": [], "sentences": ["x"]}}, "not as its dataset"),
        ({"v_a": {"timestamps": [SPAN], "sentences": ["x"]}}, "not as its dataset"),
    ],
)
def test_another_document_is_one_line(document: object, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=reason):
        read_annotations(tmp_path / "a.json")
