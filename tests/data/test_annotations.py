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


@pytest.mark.parametrize(
    "name",
    [
        "qvhighlights/highlight_train_release.jsonl",
        "qvhighlights/highlight_val_release.jsonl",
        "charades/charades_train_release.jsonl",
        "charades/charades_test_release.jsonl",
        "tacos/tacos_train_release.jsonl",
        "tacos/tacos_val_release.jsonl",
        "activitynet/activitynet_val_release.jsonl",
    ],
)
def test_real_files_load_line_for_line(shared_data: Path, name: str) -> None:
    file = shared_data / name
    assert len(read_annotations(file)) == sum(1 for line in file.open() if line.strip())


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
        read_annotations(file)
    assert "broken.jsonl:2" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["empty.jsonl", "missing.jsonl"])
def test_an_empty_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=name):
        read_annotations(tmp_path / name)
