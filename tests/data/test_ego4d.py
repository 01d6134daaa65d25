"""Ego4D's nested document gives the records that everything else reads."""

from __future__ import annotations

import copy
import json
from collections import Counter
from pathlib import Path

import pytest

from sdst.data.annotations import Annotation, read_annotations
from sdst.errors import InputError

DOCUMENT = {
    "version": "1",
    "videos": [
        {
            "video_uid": "film",
            "clips": [
                {
                    "clip_uid": "kitchen",
                    "video_start_sec": 100.0,
                    "video_end_sec": 580.0,
                    "annotations": [
                        {
                            "annotation_uid": "ann",
                            "language_queries": [
                                {
                                    "clip_start_sec": 43.5,
                                    "clip_end_sec": 47.75,
                                    "video_start_sec": 143.5,
                                    "video_end_sec": 147.75,
                                    "query": "Where was the knife? ",
                                },
                                {"clip_start_sec": 1.0, "clip_end_sec": 2.0, "query": None},
                                {"clip_start_sec": 5.0, "clip_end_sec": 5.0, "query": "what?"},
                                {"query": "a query of the test file"},
                            ],
                        }
                    ],
                }
            ],
        }
    ],
}


def write(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document, indent=1))
    return path


def test_queries_are_read_with_the_ids_of_the_submission(tmp_path: Path) -> None:
    repairs: Counter[str] = Counter()
    found = read_annotations(write(tmp_path / "nlq_val.json", DOCUMENT), repairs)
    assert found == [
        Annotation("ann_0", "Where was the knife?", "kitchen", 480.0, ((43.5, 47.75),)),
        Annotation("ann_3", "a query of the test file", "kitchen", 480.0),
    ]
    assert repairs == {
        "queries stripped of spaces": 1,
        "queries without a sentence left out": 1,
        "moments without length left out": 1,
    }


def test_the_order_of_its_keys_does_not_matter(tmp_path: Path) -> None:
    reordered = {"videos": DOCUMENT["videos"], "version": "1"}
    assert len(read_annotations(write(tmp_path / "a.json", reordered))) == 2


def without(key: str, *path: str | int) -> dict:
    """DOCUMENT less a key of the entry at `path`."""
    document = copy.deepcopy(DOCUMENT)
    entry = document
    for step in path:
        entry = entry[step]
    del entry[key]
    return document


def changed(**values: object) -> dict:
    """DOCUMENT with other values in its first query."""
    document = copy.deepcopy(DOCUMENT)
    clip = document["videos"][0]["clips"][0]
    clip["annotations"][0]["language_queries"][0] |= values
    return document


FIRST = r"videos\[0\]\.clips\[0\]\.annotations\[0\]\.language_queries\[0\]"


@pytest.mark.parametrize(
    ("document", "named"),
    [
        (without("clips", "videos", 0), r"videos\[0\]: key 'clips' is missing"),
        (
            without("clip_uid", "videos", 0, "clips", 0),
            r"videos\[0\]\.clips\[0\]: key 'clip_uid' is missing",
        ),
        (changed(clip_end_sec="late"), FIRST + ": clip_end_sec is 'late', expected seconds"),
        (changed(clip_end_sec=20.0), FIRST + ": window .* does not end after its start"),
        (changed(clip_end_sec=990.0), FIRST + r": window .* is outside the video, \[0, 480\] s"),
        (changed(query=3), FIRST + ": query is 3"),
        ({"version": "1", "videos": [3]}, r"videos\[0\]: expected a JSON object"),
        ({"version": "1", "videos": {}}, "videos: expected a list"),
        ({"version": "1", "videos": []}, "no language_queries"),
    ],
)
def test_a_fault_is_one_line_that_names_file_and_place(
    tmp_path: Path, document: object, named: str
) -> None:
    file = write(tmp_path / "nlq.json", document)
    with pytest.raises(InputError, match=named) as error:
        read_annotations(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_truncated_document_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "nlq.json"
    file.write_text(json.dumps(DOCUMENT)[:-20])
    with pytest.raises(InputError, match=r"nlq\.json: not JSON"):
        read_annotations(file)


def test_a_document_without_a_usable_query_is_refused(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    passes = document["videos"][0]["clips"][0]["annotations"]
    passes[0]["language_queries"] = [{"query": None}]
    path = write(tmp_path / "nlq.json", document)
    with pytest.raises(InputError, match=r"nlq\.json: holds no query with a sentence"):
        read_annotations(path)
