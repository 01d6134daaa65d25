"""Fields of videos are read from tables and from JSON, and refused by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.indexing.metadata import matched, read_metadata, types_of

EXPECTED = {
    "a": {"year": 2020, "place": "park", "open": True},
    "b": {"place": "1"},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", "video,year,place,open\na,2020,park,true\nb,, 1 ,\n"),
        ("m.tsv", "\ufeffplace\tvid\tyear\topen\npark\ta\t2020.0\tTrue\n1\tb\t\t\n"),
        ("m.json", '{"a": {"year": 2020, "place": "park", "open": true}, "b": {"place": "1"}}'),
        (
            "m.json",
            '[{"vid": "a", "year": 2020, "place": "park", "open": true},'
            ' {"video": "b", "place": "1", "year": null}]',
        ),
        (
            "m.jsonl",
            '{"vid": "a", "year": 2020, "place": "park", "open": true}\n\n'
            '{"vid": "b", "place": "1"}\n',
        ),
    ],
)
def test_every_form_gives_the_same_fields(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read_metadata(tmp_path / name)
    assert found == EXPECTED
    assert types_of(found.values()) == {"year": "number", "place": "text", "open": "truth"}


def test_a_name_with_its_ending_names_the_video() -> None:
    metadata = {"a.MP4": {"x": 1}, "talk.2020": {"x": 2}, "c": {"x": 3}}
    found = matched(metadata, ["a", "talk", "talk.2020", "c", "d"])
    assert found == {"a": {"x": 1}, "talk.2020": {"x": 2}, "c": {"x": 3}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "film,year\na,1\n", r"m\.csv: no column vid or video"),
        ("m.csv", "", r"m\.csv: no column vid or video"),
        ("m.csv", "vid,year\na,1\na,2\n", r"m\.csv:3: video a appears twice"),
        ("m.csv", "vid,year\na\n", r"m\.csv:2: expected 2 columns"),
        ("m.csv", "vid,year\na,1,2\n", r"m\.csv:2: expected 2 columns"),
        ("m.csv", "vid,the year\na,1\n", r"no name of a field: 'the year'"),
        ("m.csv", "vid,clip\na,1\n", r"no name of a field: 'clip'"),
        ("m.json", '{"a": {"when": [1, 2]}}', r"video a: field when is \[1, 2\]; expected a num"),
        ("m.json", '{"a": 3}', r"video a: expected {field: value}, found 3"),
        ("m.json", "3", r"m\.json: expected {vid: {field: value}} or a list"),
        ("m.json", '[{"year": 3}]', r'entry 1: expected {"vid": vid'),
        (
            "m.json",
            '{"a": {"place": "\\ud83d"}}',
            r"field place is '\\ud83d', which has half a char",
        ),
        ("m.json", "{", r"m\.json: not JSON"),
        ("m.jsonl", '{"vid": "a"}\n{', r"m\.jsonl:2: not JSON"),
        ("m.jsonl", "[]", r'm\.jsonl:1: expected {"vid": vid'),
    ],
)
def test_what_is_no_metadata_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / name)


def test_a_field_of_two_types_is_refused() -> None:
    with pytest.raises(InputError, match="field x is text in one video and number in another"):
        types_of([{"x": 1}, {"x": "a"}])
