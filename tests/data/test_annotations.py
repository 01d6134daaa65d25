"""Annotation files: the field's real ones load, every fault is named by file and line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sdst.data.annotations import read_annotations, write_annotations
from sdst.errors import InputError

GOOD = {
    "qid": 1,
    "query": "a cat jumps",
    "vid": "v1",
    "duration": 10,
    "relevant_windows": [[2, 6]],
    "relevant_clip_ids": [1, 2],
    "saliency_scores": [[1, 2, 3], [4, 4, 4]],
}


def write(path: Path, *records: object) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


STRIPPED = "queries stripped of spaces"
CLAMPED = "windows clamped to the video's end"
SHORT = "moments shorter than a clip, trained on as one clip"


@pytest.mark.parametrize(
    ("name", "clip_length", "repaired"),
    [
        ("qvhighlights/highlight_train_release.jsonl", 2, {}),
        ("qvhighlights/highlight_val_release.jsonl", 2, {}),
        ("charades/charades_train_release.jsonl", 1, {}),
        ("charades/charades_test_release.jsonl", 1, {}),
        ("tacos/tacos_train_release.jsonl", 2, {STRIPPED: 21, SHORT: 253}),
        ("tacos/tacos_val_release.jsonl", 2, {STRIPPED: 12, SHORT: 82}),
        (
            "activitynet/activitynet_val_release.jsonl",
            2,
            {STRIPPED: 11639, CLAMPED: 5, SHORT: 662},
        ),
    ],
)
def test_real_files_load_line_for_line_with_their_repairs_counted(
    shared_data: Path, name: str, clip_length: float, repaired: dict[str, int]
) -> None:
    file = shared_data / name
    repairs: Counter[str] = Counter()
    found = read_annotations(file, repairs, clip_length)
    assert len(found) == sum(1 for line in file.open() if line.strip())
    assert repairs == repaired


def test_known_blemishes_are_repaired_and_counted(tmp_path: Path) -> None:
    late = {**GOOD, "relevant_windows": [[2, 10.3]], "query": " a cat jumps "}
    repairs: Counter[str] = Counter()
    (found,) = read_annotations(write(tmp_path / "a.jsonl", late), repairs)
    assert found.windows == ((2.0, 10.0),)
    assert found.query == "a cat jumps"
    assert sum(repairs.values()) == 2


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    found = read_annotations(write(tmp_path / "a.jsonl", GOOD, {**GOOD, "qid": "s-2"}))
    write_annotations(tmp_path / "b.jsonl", found)
    assert read_annotations(tmp_path / "b.jsonl") == found


def test_ratings_are_averaged_per_clip_and_zero_elsewhere(tmp_path: Path) -> None:
    (found,) = read_annotations(write(tmp_path / "a.jsonl", GOOD))
    assert found.saliency_per_clip(5).tolist() == [0, 2, 4, 0, 0]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("{not json", "JSON"),
        ("[1, 2]", "object"),
        ({k: v for k, v in GOOD.items() if k != "vid"}, "vid"),
        ({**GOOD, "query": "  "}, "query"),
        ({**GOOD, "query": 3}, "query"),
        ({**GOOD, "duration": 0}, "duration"),
        ({**GOOD, "duration": "long"}, "duration"),
        ({**GOOD, "relevant_windows": [[6, 2]]}, r"\[6"),
        ({**GOOD, "relevant_windows": [[2, 60]]}, "60"),
        ({**GOOD, "relevant_windows": [[-3, 6]]}, "-3"),
        ({**GOOD, "relevant_windows": [[2]]}, r"window \[2\]"),
        ({**GOOD, "relevant_windows": [[2, "6"]]}, r"window \[2, '6'\]"),
        ({**GOOD, "relevant_windows": [[2, float("nan")]]}, "nan"),
        ({**GOOD, "relevant_windows": []}, "leave the key out"),
        ({**GOOD, "vid": ""}, "vid"),
        ({**GOOD, "duration": float("inf")}, "duration"),
        ({**GOOD, "relevant_clip_ids": [1, 1]}, "names a clip twice"),
        ({**GOOD, "relevant_clip_ids": [1, -2]}, "clip numbers from 0"),
        ({**GOOD, "relevant_clip_ids": [1, 5]}, r"relevant_clip_ids has 5, but 10 s are 5 clips"),
        ({k: v for k, v in GOOD.items() if k != "saliency_scores"}, "only make sense together"),
        ({**GOOD, "saliency_scores": [[1, 2, 3]]}, "saliency_scores"),
        ({**GOOD, "saliency_scores": [[1, 2], [3, 4]]}, "saliency_scores"),
        ({**GOOD, "saliency_scores": [[1, 2, 9], [4, 4, 4]]}, "saliency_scores"),
        ({**GOOD, "qid": 0.5}, "qid"),
        ({**GOOD}, "qid 1 is already used"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_line(
    tmp_path: Path, fault: object, named: str
) -> None:
    file = write(tmp_path / "broken.jsonl", GOOD, fault)
    with pytest.raises(InputError, match=named) as error:
        read_annotations(file, clip_length=2.0)
    assert "broken.jsonl:2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["empty.jsonl", "missing.jsonl"])
def test_an_empty_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=name):
        read_annotations(tmp_path / name)
