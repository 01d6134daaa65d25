"""Exports are opened by other programs' libraries, and say what the moments are."""

from __future__ import annotations

import csv
import json
import pickle
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdst.errors import InputError
from sdst.grounding.answers import Grounding
from sdst.grounding.export import (
    FORMATS,
    Moment,
    check_export_name,
    export,
    moments_found,
    moments_of,
)
from sdst.grounding.search import Found

QUERY = 'a "red" <ball> & a dog,\nthen 猫'
TITLE = 'a "red" <ball> & a dog, then 猫'


@pytest.fixture
def moments(film: Path) -> list[Moment]:
    """Of one video at 4 frames a second, not in its order."""
    windows = [(10.5, 12.25, 0.9), (2.0, 3.0, 0.25), (11.0, 20.0, 0.125)]
    return [Moment(film, QUERY, rank, *window) for rank, window in enumerate(windows, 1)]


def test_a_table_has_a_row_for_every_moment(moments, film, tmp_path):
    export(moments, tmp_path / "moments.csv")
    with (tmp_path / "moments.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert rows[0]["query"] == QUERY and rows[0]["video"] == str(film)
    assert [float(rows[0][name]) for name in ("start", "end", "score")] == [10.5, 12.25, 0.9]
    export(moments, tmp_path / "moments.json")
    records = json.loads((tmp_path / "moments.json").read_text())
    assert [{key: str(value) for key, value in x.items()} for x in records] == rows


@pytest.mark.parametrize(("ending", "text"), [("srt", TITLE), ("vtt", TITLE)])
def test_subtitles_are_read_by_ffmpeg(moments, tmp_path, ending, text):
    export(moments, tmp_path / f"moments.{ending}")
    with av.open(str(tmp_path / f"moments.{ending}")) as container:
        [stream] = container.streams.subtitles
        cues = [packet for packet in container.demux(stream) if packet.size]
    times = [(cue.pts * cue.time_base, cue.duration * cue.time_base) for cue in cues]
    assert times == [(2, 1), (Fraction("10.5"), Fraction("1.75")), (11, 9)]
    read = bytes(cues[0]).decode()
    assert read.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == f"{text} (0.25)"


@pytest.mark.parametrize("ending", ["edl", "otio", "fcpxml"])
def test_time_lines_are_read_by_opentimelineio(moments, film, tmp_path, ending):
    otio = pytest.importorskip("opentimelineio")
    adapters = {"edl": "cmx_3600", "otio": "otio_json", "fcpxml": "fcpx_xml"}
    if adapters[ending] not in otio.adapters.available_adapter_names():
        pytest.skip(f"OpenTimelineIO has no adapter {adapters[ending]} here")
    export(moments, tmp_path / f"moments.{ending}")
    options = {"rate": 25} if ending == "edl" else {}
    read = otio.adapters.read_from_file(str(tmp_path / f"moments.{ending}"), **options)
    clips = list(read.find_clips())
    seconds = [
        (clip.source_range.start_time.to_seconds(), clip.source_range.duration.to_seconds())
        for clip in clips
    ]
    frame = 1 / 25  # an EDL knows no 4 frames a second
    for found, expected in zip(seconds, [(10.5, 1.75), (2.0, 1.0), (11.0, 9.0)], strict=True):
        assert found == pytest.approx(expected, abs=frame if ending == "edl" else 0)
    if ending != "edl":
        assert clips[0].name == TITLE
    if ending == "otio":
        assert clips[0].media_reference.target_url == film.resolve().as_uri()


def test_rates_of_television_stay_exact(moments, tmp_path):
    film = tmp_path / "film.mp4"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30000, 1001))
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(31):
            grey = np.full((32, 32, 3), 99, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode())
    export([Moment(film, "a", 1, 0.5, 1.0, 0.5)], tmp_path / "a.fcpxml")
    text = (tmp_path / "a.fcpxml").read_text()
    assert 'frameDuration="1001/30000s"' in text
    assert 'start="1001/2000s" duration="1001/2000s"' in text


def test_no_moment_makes_valid_files(tmp_path):
    for ending in FORMATS:
        export([], tmp_path / f"none{ending}")
        assert (tmp_path / f"none{ending}").is_file()


def test_names_without_a_format_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no format of this ending; expected one of \.csv, "):
        check_export_name(tmp_path / "moments.xlsx", one_video=True)
    with pytest.raises(InputError, match="subtitles are of one video"):
        check_export_name(tmp_path / "moments.srt", one_video=False)


def test_an_answer_is_a_value():
    answer = Grounding("a <b>", [[1.0, 2.5, 0.9]], np.float32([0.5, 0.25]), 1.5, 3.0, "", "a.mp4")
    assert pickle.loads(pickle.dumps(answer)) == answer
    assert answer != Grounding("a <b>", [[1.0, 2.5, 0.9]], np.float32([0.5, 0.5]), 1.5, 3.0)
    assert json.loads(answer.to_json()) == answer.to_dict()
    assert answer.to_dict()["saliency"] == [0.5, 0.25]
    assert "a &lt;b&gt;" in answer._repr_html_() and "0:02.5" in answer._repr_html_()
    assert moments_of(answer) == [Moment(Path("a.mp4"), "a <b>", 1, 1.0, 2.5, 0.9)]


def test_an_answer_draws_itself(film, tmp_path):
    Grounding("a", [[1.0, 2.5, 0.9]], np.zeros(30), 1.0, 30.0, "", str(film)).plot(
        tmp_path / "a.png"
    )
    assert (tmp_path / "a.png").stat().st_size > 0


def test_found_moments_name_their_files():
    found = [Found("x/a.mp4", 1.0, 2.0, 0.5), Found("stored", 1.0, 2.0, 0.25)]
    first, second = moments_found("q", found, {"x/a.mp4": "/videos/x/a.mp4"})
    assert (first.video, second.video) == (Path("/videos/x/a.mp4"), Path("stored"))
