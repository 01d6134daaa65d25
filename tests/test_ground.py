"""The command: what it prints and writes; faults come in one line."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import av
import numpy as np
import pytest

from sdst.errors import InputError, run
from sdst.ground import main
from sdst.grounding.answers import Grounding, moments_to_show
from sdst.grounding.report import as_json, format_found, format_table, found_as_json
from sdst.grounding.search import Found
from sdst.model.calibration import Calibration, Logistic
from sdst.pretrained.folder import load_checkpoint
from sdst.terminal.times import format_time
from sdst.training.run_folder import RunFolder
from tests.processor import needs_bf16
from tests.untrained import QUERIES
from tests.videos import cut_in_pictures

ZERO_SHOT = ("--zero-shot", "--backbone", "demo")


def test_the_command_prints_and_writes_everything(untrained, own_cache, film, tmp_path, capsys):
    queries = [part for query in QUERIES for part in ("--query", query)]
    outputs = ["--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    arguments = ["--checkpoint", str(untrained), "--video", str(film), "--top", "2"]
    assert main([*arguments, *queries, *outputs]) == 0
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "out.json").read_text())
    assert all(query in printed for query in QUERIES)
    assert [len(answer["pred_relevant_windows"]) for answer in written["answers"]] == [2, 2]
    assert (tmp_path / "out.png").stat().st_size > 0


def test_the_command_grounds_without_training(own_cache, film, tmp_path, capsys):
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(QUERIES) + "\n\n")
    arguments = [*ZERO_SHOT, "--clip-length", "1", "--video", str(film)]
    assert main([*arguments, "--queries", str(queries), "--plot", str(tmp_path / "a.png")]) == 0
    shown = capsys.readouterr().out
    assert all(query in shown for query in QUERIES)


def test_a_url_and_a_folder_of_pictures_are_asked_like_a_file(
    own_cache, film, server, tmp_path, capsys
):
    cut_in_pictures(film, tmp_path / "film.mp4", kept=1)  # all of it, with the header in front
    folder = tmp_path / "pictures"
    folder.mkdir()
    with av.open(str(film)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            frame.to_image().save(folder / f"{number}.png")
        rate = container.streams.video[0].average_rate
    (folder / "frame_rate.txt").write_text(str(rate))
    windows = []
    for video in (film, f"{server}/film.mp4", folder):
        asked = [*ZERO_SHOT, "--clip-length", "1", "--video", str(video), "--query", QUERIES[0]]
        assert main([*asked, "--json", str(tmp_path / "a.json")]) == 0
        written = json.loads((tmp_path / "a.json").read_text())
        assert written["video"] == str(video)
        windows.append(written["answers"][0]["pred_relevant_windows"])
    assert windows[0] == windows[1]
    np.testing.assert_allclose(windows[0], windows[2], atol=0.02)
    assert "film.mp4: 0:" in capsys.readouterr().out
    assert len(list(own_cache.iterdir())) == 2
    with pytest.raises(InputError, match="--export and --clips are of files; get the video"):
        asked = [*ZERO_SHOT, "--video", f"{server}/film.mp4", "--query", "a cat"]
        main([*asked, "--export", str(tmp_path / "a.csv")])


def test_a_zero_shot_command_needs_a_backbone(film):
    with pytest.raises(InputError, match=r"--zero-shot needs --backbone NAME: MODEL:PRETRAINED"):
        main(["--zero-shot", "--video", str(film), "--query", "a cat"])


def test_the_frozen_backbone_searches_a_folder(own_cache, films, tmp_path, capsys):
    films.pop("noise").unlink()
    arguments = [*ZERO_SHOT, "--videos", str(tmp_path / "films"), "--query", QUERIES[0]]
    assert main([*arguments, "--clip-length", "1", "--top", "4"]) == 0
    assert "best of 3 videos" in capsys.readouterr().out


def test_words_beyond_the_text_tower_are_reported(untrained, own_cache, film, tmp_path, capsys):
    queries = tmp_path / "queries.txt"
    long = f"{'a small red ball on the grey floor, ' * 8}then the blue star spins"
    queries.write_text(f"{long}\n{QUERIES[0]}\n")
    out = tmp_path / "out.json"
    arguments = ["--checkpoint", str(untrained), "--video", str(film), "--queries", str(queries)]
    assert main([*arguments, "--json", str(out)]) == 0
    assert capsys.readouterr().err.count("cut: 1 of 2 queries is longer than the text tower") == 1
    first, second = json.loads(out.read_text())["answers"]
    assert first["unread"].endswith("then the blue star spins") and second["unread"] == ""
    assert long.endswith(first["unread"])


def test_queries_and_json_are_pipes(untrained, own_cache, film, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUERIES[0]}\n\n{QUERIES[1]}\n"))
    arguments = ["--checkpoint", str(untrained), "--video", str(film)]
    assert main([*arguments, "--queries", "-", "--json", "-"]) == 0
    answers = json.loads(capsys.readouterr().out)["answers"]
    assert [answer["query"] for answer in answers] == QUERIES


def test_the_command_searches_a_folder(untrained, own_cache, films, tmp_path, capsys):
    folder = next(iter(films.values())).parent
    arguments = ["--checkpoint", str(untrained), "--videos", str(folder), "--query", QUERIES[0]]
    out = tmp_path / "found.json"
    assert main([*arguments, "--top", "4", "--json", str(out)]) == 1  # one was left out
    shown = capsys.readouterr()
    assert "best of 3 videos" in shown.out
    assert "left out" in shown.err and "noise.mp4" in shown.err
    [record] = json.loads(out.read_text())
    assert [set(moment) for moment in record["moments"]] == 4 * [
        {"vid", "start", "end", "score", "presence"}
    ]


def test_a_search_that_can_read_no_video_is_an_error(untrained, own_cache, tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(os.urandom(2000))
    with pytest.raises(InputError, match=r"none of 1 videos can be read; the first: .*noise\.mp4"):
        main(["--checkpoint", str(untrained), "--videos", str(path), "--query", "a cat"])


def test_a_search_in_no_video_is_an_error(untrained, own_cache, tmp_path):
    path = tmp_path / "list.txt"
    path.touch()
    with pytest.raises(InputError, match=r"list\.txt: names no video"):
        main(["--checkpoint", str(untrained), "--videos", str(path), "--query", "a cat"])


def test_a_search_refuses_what_is_for_one_video(untrained, tmp_path):
    arguments = ["--videos", str(tmp_path), "--query", "a cat"]
    with pytest.raises(InputError, match="--plot draws one video"):
        main(["--checkpoint", str(untrained), "--plot", "a.png", *arguments])


def test_a_command_without_a_query_says_how_to_give_one(untrained, film, tmp_path):
    arguments = ["--checkpoint", str(untrained), "--video", str(film)]
    with pytest.raises(InputError, match="give --query TEXT or --queries FILE"):
        main(arguments)
    queries = tmp_path / "queries.txt"
    queries.write_text("\n \n")
    with pytest.raises(InputError, match=r"queries\.txt: holds no query; expected one a line"):
        main([*arguments, "--queries", str(queries)])


@pytest.mark.parametrize("seconds", ["0", "nan", "inf"])
def test_a_clip_has_a_length(film, seconds):
    with pytest.raises(InputError, match=r"--clip-length \w+: expected seconds above 0"):
        main([*ZERO_SHOT, "--video", str(film), "--clip-length", seconds, "--query", "a cat"])


def test_a_precision_goes_with_a_checkpoint(film):
    with pytest.raises(InputError, match="--precision goes with --checkpoint"):
        main([*ZERO_SHOT, "--video", str(film), "--precision", "bf16", "--query", "a cat"])


@needs_bf16
def test_the_command_answers_in_bf16(untrained, own_cache, film, tmp_path, capsys):
    out = tmp_path / "out.json"
    for precision in ("fp32", "bf16"):
        options = ["--video", str(film), "--query", QUERIES[0], "--json", str(out)]
        assert main(["--checkpoint", str(untrained), *options, "--precision", precision]) == 0
        scores = json.loads(out.read_text())["answers"][0]["pred_saliency_scores"]
        if precision == "fp32":
            whole = scores
    assert scores != whole
    assert scores == pytest.approx(whole, abs=0.02)


def test_a_search_is_reported_in_a_table():
    found = [Found("b", 1.0, 2.5, 0.9), Found("a", 70.0, 80.0, 0.25)]
    assert format_found("a cat ", found, 1200).splitlines() == [
        "a cat, best of 1,200 videos",
        "  rank     start       end   score  video",
        "     1    0:01.0    0:02.5   0.900  b",
        "     2    1:10.0    1:20.0   0.250  a",
    ]


def test_numbers_in_json_have_four_decimals():
    curve = np.float32([1 / 3, -2 / 3])
    answer = Grounding("a cat", [[1 / 3, 2 / 3, 1 / 7]], curve, 2.0, 4.0)
    [written] = json.loads(as_json(Path("a.mp4"), [answer]))["answers"]
    assert written["pred_relevant_windows"] == [[0.3333, 0.6667, 0.1429]]
    assert written["pred_saliency_scores"] == [0.3333, -0.6667]
    [record] = json.loads(found_as_json(["a cat"], [[Found("a", 1 / 3, 2 / 3, 1 / 7)]], [""]))
    times = {"vid": "a", "start": 0.3333, "end": 0.6667, "score": 0.1429}
    assert record["moments"] == [{**times, "presence": None}]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (83.26, "1:23.3"), (59.96, "1:00.0"), (3599.99, "60:00.0")],
)
def test_times_are_shown_in_minutes(seconds, text):
    assert format_time(seconds) == text


def test_the_table_is_ranked():
    answer = Grounding("a cat", [[1.0, 2.5, 0.9], [70.0, 80.0, 0.25]], np.zeros(40), 2.0, 80.0)
    assert format_table(answer).splitlines() == [
        "a cat",
        "  rank     start       end   score",
        "     1    0:01.0    0:02.5   0.900",
        "     2    1:10.0    1:20.0   0.250",
    ]


FAULTS = {
    "empty query": ({"--query": " "}, "query 1 is empty"),
    "queries": ({"--queries": "nowhere.txt"}, "nowhere.txt: cannot be read"),
    "both": ({"--videos": "."}, "argument --videos: not allowed with argument --video"),
    "clip length": ({"--clip-length": "2"}, "--clip-length goes with --zero-shot"),
    "top": ({"--top": "0"}, "--top 0: expected at least 1"),
    "video": ({"--video": "nowhere.mp4"}, "nowhere.mp4: no such video file"),
    "folder": (
        {"--video": "."},
        "is a folder; expected a video file, or search",
    ),
    "checkpoint": ({"--checkpoint": "nowhere"}, "checkpoint nowhere: no such folder"),
    "json folder": ({"--json": "nowhere/out.json"}, "no such folder nowhere"),
    "plot folder": ({"--plot": "nowhere/out.png"}, "no such folder nowhere"),
    "plot format": ({"--plot": "out.xyz"}, "no picture format"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_wrong_option_ends_with_one_line_and_code_2(untrained, own_cache, film, case, capsys):
    changed, reason = FAULTS[case]
    options = {"--checkpoint": str(untrained), "--video": str(film), "--query": "a cat"} | changed
    with pytest.raises(SystemExit) as caught:
        run(lambda: main([part for pair in options.items() for part in pair]))
    message = capsys.readouterr().err
    assert caught.value.code == 2
    assert reason in message
    assert message.startswith("error: ") and message.count("\n") == 1


def test_a_broken_video_ends_with_one_line_and_leaves_no_cache(untrained, own_cache, tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(os.urandom(2000))
    with pytest.raises(InputError, match="not a readable video"):
        main(["--checkpoint", str(untrained), "--video", str(path), "--query", "a cat"])
    assert not own_cache.exists() or not list(own_cache.iterdir())


@pytest.fixture
def calibrated(untrained, tmp_path) -> Path:
    """The untrained checkpoint, with curves that know presence."""
    folder = tmp_path / "calibrated"
    shutil.copytree(untrained, folder)
    model = load_checkpoint(folder)[1]
    model.calibration = Calibration(Logistic((0.0, 0.0, 0.0, 4.0, 0.0), 0.0), None)
    RunFolder(folder).save_model(model)
    return folder


def test_nothing_is_shown_below_the_presence_asked_for(
    calibrated, own_cache, films, tmp_path, capsys
):
    out, table = tmp_path / "out.json", tmp_path / "moments.csv"
    query = ["--checkpoint", str(calibrated), "--query", QUERIES[0], "--json", str(out)]
    one = [*query, "--video", str(films["film0"]), "--export", str(table)]
    assert main(one) == 0
    [answer] = json.loads(out.read_text())["answers"]
    assert f"(presence {answer['presence']:.2f}" in capsys.readouterr().out
    assert answer["pred_relevant_windows"] and len(table.read_text().splitlines()) > 1
    assert main([*one, "--min-presence", "0.9999"]) == 0
    assert "nothing: its presence is less than asked for" in capsys.readouterr().out
    [none] = json.loads(out.read_text())["answers"]
    assert none == {**answer, "pred_relevant_windows": []}
    assert len(table.read_text().splitlines()) == 1
    many = [*query, "--videos", str(films["film0"].parent)]
    assert main(many) == 1
    assert "presence  video" in capsys.readouterr().out
    assert main([*many, "--min-presence", "0.9999"]) == 1
    assert json.loads(out.read_text())[0]["moments"] == []
    assert "nothing: no video's presence" in capsys.readouterr().out


def test_a_model_without_presence_refuses_one_to_ask_for(untrained, own_cache, film):
    arguments = ["--checkpoint", str(untrained), "--video", str(film), "--query", "a cat"]
    with pytest.raises(
        InputError, match=r"min_presence 0\.5: this model does not report .* resume its"
    ):
        main([*arguments, "--min-presence", "0.5"])
    with pytest.raises(InputError, match=r"--min-presence 1\.5: expected 0 to 1"):
        main([*arguments, "--min-presence", "1.5"])
    with pytest.raises(InputError, match="--min-presence nan: expected 0 to 1"):
        main([*arguments, "--min-presence", "nan"])


def test_a_backbone_alone_knows_no_presence(film):
    arguments = [*ZERO_SHOT, "--video", str(film), "--query", "a cat", "--min-presence", "0.5"]
    with pytest.raises(InputError, match="--min-presence goes with --checkpoint"):
        main(arguments)


def test_the_table_has_a_moment_once_and_no_unlikely_one():
    windows = [[0.0, 4.0, 0.8], [0.5, 4.0, 0.7], [6.0, 8.0, 0.3], [9.0, 10.0, 0.05]]
    answer = Grounding("a cat", windows, np.zeros(4), 2.0, 10.0)
    assert answer.moments == [windows[0], windows[2], windows[3]]
    assert moments_to_show(windows, floor=0.1) == [windows[0], windows[2]]
    assert moments_to_show(windows[3:], floor=0.1) == [windows[3]]  # the first stays
    assert moments_to_show(windows, top=1) == [windows[0]]
    assert moments_to_show([]) == []
    assert len(format_table(answer).splitlines()) == 5
    assert "0.700" not in format_table(answer)
