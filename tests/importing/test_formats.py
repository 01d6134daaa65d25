"""One moment, `a dog jumps` at 2 to 5.5 s of `park.mp4`, in every format; and what they lack."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from sdst.errors import InputError
from sdst.grounding.export import Moment, export
from sdst.importing.formats import read_rows
from sdst.importing.rows import Doubt, Row
from sdst.importing.times import in_seconds, parse_time

FPS = 10.0


def moments(rows: list[Row | Doubt]) -> list[tuple[str, float, float, str]]:
    """Video, start and end in seconds, and sentence of every row."""
    return [
        (
            row.videos[0],
            round(in_seconds(parse_time(row.start), row.start_unit, FPS, False), 3),
            round(in_seconds(parse_time(row.end), row.end_unit, FPS, True), 3),
            row.sentence,
        )
        for row in rows
        if isinstance(row, Row)
    ]


def read(folder: Path, name: str, text: str, **columns: str) -> list[Row | Doubt]:
    (folder / name).write_text(text)
    return list(read_rows(folder / name, columns))


TABLES = {
    "comma.csv": 'video,start,end,sentence\npark.mp4,2,5.5,"a dog jumps"\n',
    "semicolon.csv": "File name;Begin;End;Description\npark.mp4;2;5.5;a dog jumps\n",
    "excel.csv": "sep=;\nfile;from;to;caption\npark.mp4;0:02;0:05.5;a dog jumps\n",
    "tabs.tsv": "vid\tstart_time\tend_time\tquery\npark.mp4\t2\t5.5\ta dog jumps\n",
    "pipes.txt": "video|start|stop|text\npark.mp4|2|5.5|a dog jumps\n",
    "milliseconds.csv": "video,start_ms,endMs,label\npark.mp4,2000,5500,a dog jumps\n",
    "frames.csv": "video,start frame,end_frames,text\npark.mp4,21,55,a dog jumps\n",
    "elan.tsv": "Begin Time - ss.msec\tEnd Time - msec\tFile Path\ttext\n"
    "2.000\t5500\tpark.mp4\ta dog jumps\n",
    "old mac.csv": "video,start,end,sentence\rpark.mp4,2,5.5,a dog jumps\r",
    "mac.csv": "\ufeffvideo,start,end,sentence\r\npark.mp4,2,5.5,a dog jumps\r\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read(name: str, tmp_path: Path) -> None:
    columns = {"video": "File Path"} if name == "elan.tsv" else {}
    rows = read(tmp_path, name, TABLES[name], **columns)
    assert moments(rows) == [("park.mp4", 2, 5.5, "a dog jumps")]


DOCUMENTS = {
    "list": [{"video": "park.mp4", "start": 2, "end": "0:05.5", "sentence": "a dog jumps"}],
    "windows": [{"vid": "park.mp4", "relevant_windows": [[2, 5.5]], "query": "a dog jumps"}],
    "captions": {
        "park.mp4": {"duration": 9, "timestamps": [[2, 5.5]], "sentences": ["a dog jumps"]}
    },
    "nested": {
        "info": {"description": "ours"},
        "videos": [
            {"file": "park.mp4", "events": [{"segment": [2, 5.5], "caption": "a dog jumps"}]}
        ],
    },
    "by video": {"park.mp4": [{"begin": 2, "end": 5.5, "label": "a dog jumps"}]},
    "label studio": [
        {
            "id": 1,
            "data": {"video": "/data/upload/1/0a1b2c3d-park.mp4"},
            "annotations": [
                {
                    "result": [
                        {
                            "id": "r1",
                            "type": "timelinelabels",
                            "value": {
                                "ranges": [{"start": 21, "end": 55}],
                                "timelinelabels": ["dog"],
                            },
                        },
                        {"id": "r1", "type": "textarea", "value": {"text": ["a dog jumps"]}},
                    ]
                },
                {"was_cancelled": True, "result": []},
            ],
        }
    ],
    "label studio, sound": [
        {
            "data": {"audio": "/data/local-files/?d=park.mp4"},
            "annotations": [
                {
                    "result": [
                        {
                            "id": "r1",
                            "type": "labels",
                            "value": {"start": 2, "end": 5.5, "labels": ["a dog jumps"]},
                        }
                    ]
                }
            ],
        }
    ],
    "via 3": {
        "project": {"pid": "x", "vid_list": ["1"]},
        "file": {"1": {"fid": "1", "fname": "park.mp4", "type": 4, "src": ""}},
        "view": {"1": {"fid_list": ["1"]}},
        "attribute": {
            "1": {"aname": "TEMPORAL-SEGMENTS", "type": 1, "options": {}},
            "2": {"aname": "what", "type": 4, "options": {"0": "a cat", "1": "a dog jumps"}},
        },
        "metadata": {
            "1_a": {"vid": "1", "z": [2, 5.5], "xy": [], "av": {"1": "_DEFAULT", "2": "1"}},
            "1_b": {"vid": "1", "z": [3.1], "xy": [2, 1, 1, 5, 5], "av": {"2": "0"}},
        },
    },
    "via 2": {
        "_via_settings": {"project": {"name": "mine"}},
        "_via_attributes": {"region": {"sentence": {"type": "text", "description": ""}}},
        "_via_img_metadata": {
            "park.mp4-1": {
                "filename": "park.mp4",
                "size": -1,
                "regions": [
                    {
                        "shape_attributes": {"name": "rect", "x": 1},
                        "region_attributes": {
                            "start": "2",
                            "end": "5.5",
                            "sentence": "a dog jumps",
                        },
                    }
                ],
                "file_attributes": {},
            }
        },
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_is_read(name: str, tmp_path: Path) -> None:
    found = moments(read(tmp_path, "a.json", json.dumps(DOCUMENTS[name], indent=2)))
    [(video, *rest)] = found
    assert rest == [2, 5.5, "a dog jumps"]
    assert video.endswith("park.mp4")


def test_names_that_an_upload_was_given_are_tried_without_them(tmp_path: Path) -> None:
    [row] = read(tmp_path, "a.json", json.dumps(DOCUMENTS["label studio"]))
    assert isinstance(row, Row)
    assert "park.mp4" in row.videos


def test_json_lines_are_read_under_either_ending(tmp_path: Path) -> None:
    line = '{"video": "park", "start": 2, "end": 5.5, "query": "a dog jumps"}\n'
    for name in ("a.jsonl", "a.json"):
        rows = read(tmp_path, name, line * 2)
        assert moments(rows) == [("park", 2, 5.5, "a dog jumps")] * 2
        assert [row.where for row in rows] == [f"{tmp_path / name}:{n}" for n in (1, 2)]


def test_an_object_of_a_document_is_named_by_its_line(tmp_path: Path) -> None:
    text = (
        '[\n {"video": "{a}", "start": 1, "end": 2, "text": "{"},\n\n {"video": "b", "start": 1}\n]'
    )
    row, doubt = read(tmp_path, "a.json", text)
    assert row.where == f"{tmp_path / 'a.json'}:2"
    assert str(doubt) == f"{tmp_path / 'a.json'}:4: has no sentence"


ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/films/park.mp4" RELATIVE_MEDIA_URL="./park.mp4"
      MIME_TYPE="video/mp4" {origin}/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="2000"/>
    <TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="5500"/>
    <TIME_SLOT TIME_SLOT_ID="ts3"/>
  </TIME_ORDER>
  <TIER TIER_ID="what">
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
      <ANNOTATION_VALUE>a dog jumps</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
    <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
      <ANNOTATION_VALUE>it lands</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  </TIER>
  <TIER TIER_ID="how" PARENT_REF="what">
    <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
      <ANNOTATION_VALUE>high</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""


def test_elan_is_read(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.eaf", ELAN.format(origin=""))
    assert moments(rows) == [
        ("./park.mp4", 2, 5.5, "a dog jumps"),
        ("./park.mp4", 2, 5.5, "high"),
    ]
    [doubt] = [row for row in rows if isinstance(row, Doubt)]
    assert str(doubt) == f"{tmp_path / 'a.eaf'}:15: tier what: an annotation without times"


def test_a_tier_is_chosen_and_a_clock_shifted(tmp_path: Path) -> None:
    rows = read(tmp_path, "a.eaf", ELAN.format(origin='TIME_ORIGIN="1000"'), sentence="how")
    assert moments(rows) == [("./park.mp4", 3, 6.5, "high")]
    with pytest.raises(InputError, match=r"no such tier in .*, which has what, how; did you mean"):
        read(tmp_path, "a.eaf", ELAN.format(origin=""), sentence="whot")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<a", "not XML"),
        ("<a/>", "expected ELAN's"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>', "declares an entity"),
    ],
)
def test_what_is_no_elan_is_one_line(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, "a.eaf", text)


VIA_CSV = """# Exported using VGG Image Annotator
# ATTRIBUTE = {"1":{"aname":"what","type":1,"options":{}}}
# CSV_HEADER = metadata_id,file_list,flags,temporal_coordinates,spatial_coordinates,metadata
"1_a","[""park.mp4""]",0,"[2,5.5]","[]","{""1"":""a dog jumps""}"
"1_b","[""park.mp4""]",0,"[3]","[2,1,1,9,9]","{""1"":""no moment""}"
"""
VIA_CSV_OLD = (
    "# CSV_HEADER = metadata_id,file_list,temporal_segment_start,temporal_segment_end,metadata\n"
    '"1_a","[""park.mp4""]",2,5.5,"{""TEMPORAL-SEGMENTS"":""a dog jumps""}"\n'
)
VIA_2_CSV = """filename,file_size,file_attributes,region_count,region_id,region_attributes
park.mp4,1,"{""begin"":""2"",""end"":""5.5"",""caption"":""a dog jumps""}",0,0,"{}"
"""


@pytest.mark.parametrize("text", [VIA_CSV, VIA_CSV_OLD, VIA_2_CSV])
def test_tables_of_via_are_read(text: str, tmp_path: Path) -> None:
    rows = read(tmp_path, "via.csv", text)
    assert moments(rows) == [("park.mp4", 2, 5.5, "a dog jumps")]
    assert rows[0].where.endswith(f":{1 + text[: text.index('dog')].count(chr(10))}")


@pytest.mark.parametrize("ending", ["srt", "vtt"])
def test_subtitles_are_read(ending: str, tmp_path: Path) -> None:
    head = "WEBVTT - ours\n\nNOTE\n1\n00:01 --> 00:02\n\n" if ending == "vtt" else ""
    text = f"{head}1\n00:00:02,000 --> 00:00:05,500 align:start\n<i>a dog</i>\njumps\n\n"
    assert moments(read(tmp_path, f"park.{ending}", text)) == [("park", 2, 5.5, "a dog jumps")]


@pytest.mark.parametrize("ending", ["csv", "json", "srt", "vtt"])
def test_what_ground_exports_is_read(ending: str, tmp_path: Path) -> None:
    out = tmp_path / f"park.{ending}"
    export([Moment(Path("films/park.mp4"), 'a "dog", & jumps', 1, 2.0, 5.5, 0.5)], out)
    [(video, start, end, sentence)] = moments(list(read_rows(out, {})))
    assert (start, end) == (2, 5.5)
    assert sentence.startswith('a "dog", & jumps')
    assert Path(video).stem == "park"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.docx", "", "no known ending"),
        ("a.csv", "", "is empty"),
        ("a.csv", "video,start\nx,1\n", "no column for end, sentence among video, start; name"),
        ("a.csv", 'video,start,end,text\na,1,2,"x\n', "a.csv:2: not a row"),
        ("a.csv", "<!doctype html><p>", "is a web page"),
        ("a.json", '{"a": 1}', "no moment found"),
        ("a.json", "{'a': 1}", "not JSON"),
        ("a.jsonl", "[1]\n", "expected a JSON object"),
        ("a.srt", "hello\n", "no cue"),
    ],
)
def test_what_has_no_moments_is_one_line(name: str, text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=reason):
        read(tmp_path, name, text)


def test_rows_that_do_not_fit_the_header_are_doubtful(tmp_path: Path) -> None:
    text = "video,start,end,text\na,1,2,b\na,1,2,x, y\na,1\n,,,\na,1,2,c,,\n"
    rows = read(tmp_path, "a.csv", text)
    assert [str(row).partition(".csv:")[2] for row in rows if isinstance(row, Doubt)] == [
        "3: has 5 columns of 4; put a text with a comma in quotes",
        "4: has no end",
    ]
    assert [row.where[-2:] for row in rows if isinstance(row, Row)] == [":2", ":6"]


def test_columns_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    text = "Datei;Von;Bis;Satz\npark.mp4;2;5,5;a dog jumps\n"
    named = {"video": "Datei", "start": "Von", "end": "Bis", "sentence": "Satz"}
    assert moments(read(tmp_path, "a.csv", text, **named)) == [("park.mp4", 2, 5.5, "a dog jumps")]
    numbers = {"video": "1", "start": "2", "end": "3", "sentence": "4"}
    rows = read(tmp_path, "b.csv", text.partition("\n")[2], **numbers)
    assert moments(rows) == [("park.mp4", 2, 5.5, "a dog jumps")]
    with pytest.raises(InputError, match=r"start=Vonn: no such column .*; did you mean Von\?"):
        read(tmp_path, "a.csv", text, **{**named, "start": "Vonn"})


HOSTILE = {
    "quote.csv": 'sep="\nvideo,start,end,sentence\npark.mp4,2,5.5,a dog\n',
    "long.csv": "video,start,end,sentence" + 200_000 * "x" + "\npark.mp4,2,5.5,a dog\n",
    "clock.csv": f"video,start,end,sentence\npark.mp4,{5000 * '9'}:00:00,{5000 * '9'}:01,a dog\n",
    "deep.json": 900 * '{"a":' + "{}" + 900 * "}",
    "address.json": '[{"data": {"video": "http://[x"}, "annotations": [{"result": [{"value": '
    '{"start": 1, "end": 2, "labels": ["a dog"]}, "type": "labels"}]}]}]',
    "number.json": f'[{{"video": "park", "start": 1, "end": {400 * "9"}, "sentence": "a dog"}}]',
    "views.json": '{"project": {}, "file": {}, "view": {"1": {"fid_list": 5}}, "attribute": {}, '
    f'"metadata": {{"1": {{"vid": "1", "z": [1, {400 * "9"}], "av": {{"1": "a dog"}}}}}}}}',
    "slots.eaf": "<ANNOTATION_DOCUMENT><TIME_ORDER>"
    f'<TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="{5000 * "9"}"/>'
    '<TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="--5"/></TIME_ORDER><TIER TIER_ID="t"><ANNOTATION>'
    '<ALIGNABLE_ANNOTATION ANNOTATION_ID="1" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b"/></ANNOTATION>'
    "</TIER></ANNOTATION_DOCUMENT>",
    "tags.srt": f"1\n0:01 --> 0:02\n{200_000 * '<'}\n",
    "character.srt": f"1\n0:01 --> 0:02\na &#{5000 * '9'}; dog\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_or_doubted_at_once(name: str, tmp_path: Path) -> None:
    try:
        rows = read(tmp_path, name, HOSTILE[name])
    except InputError as error:
        assert name in str(error)
        return
    for row in rows:
        for time in (row.start, row.end) if isinstance(row, Row) else ():
            with suppress(ValueError):  # is a doubt
                assert isinstance(parse_time(time), float)


def test_a_line_separator_within_a_cell_ends_no_row(tmp_path: Path) -> None:
    text = "video,start,end,sentence\npark.mp4,2,5.5,a dog\u2028jumps\x0bhigh\n"
    assert [row.sentence for row in read(tmp_path, "web.csv", text)] == ["a dog\u2028jumps\x0bhigh"]
