"""The command: from files of annotations to a folder that `sdst train` reads."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from sdst import ground, train
from sdst.data.annotations import Annotation, read_annotations
from sdst.data.video import ClipReader
from sdst.errors import InputError
from tests.videos import FPS, cut_in_pictures, write_video

main = import_module("sdst.import").main
HEADER = "video,start,end,sentence\n"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of 6 s, one in a folder of its own."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "more").mkdir()
    first = write_video(folder / "film00.mp4", list(np.arange(6 * FPS) / FPS))
    for number in range(1, 11):
        shutil.copy(first, folder / f"film{number:02}.mp4")
    shutil.copy(first, folder / "more" / "Café.mp4")
    return folder


def moments(names: list[str]) -> str:
    return HEADER + "".join(f"{name},1,{2 + i % 3},event {i}\n" for i, name in enumerate(names))


def imported(folder: Path) -> dict[str, list[Annotation]]:
    return {path.stem: read_annotations(path) for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture
def run(tmp_path: Path, videos: Path, monkeypatch: pytest.MonkeyPatch):
    """Import a text; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(text: str, *options: str, name: str = "moments.csv") -> int:
        Path(name).write_text(text)
        return main([name, "--videos", str(videos), "--output", "out", *options])

    return run


def test_videos_are_shared_out_by_seed_and_measured(run, tmp_path: Path) -> None:
    names = [f"film{number:02}" for number in range(10)]
    text = moments(names + names)
    assert run(text) == 0
    found = imported(tmp_path / "out")
    assert {split: len({a.vid for a in of_it}) for split, of_it in found.items()} == {
        "train": 8,
        "val": 1,
        "test": 1,
    }
    annotations = [a for of_it in found.values() for a in of_it]
    assert sorted(a.qid for a in annotations) == list(range(20))
    assert {a.duration for a in annotations} == {6.0}
    assert sorted(link.name for link in (tmp_path / "out" / "videos").iterdir()) == [
        f"{name}.mp4" for name in names
    ]
    assert run(text, "--overwrite") == 0
    assert imported(tmp_path / "out") == found
    assert run(text, "--overwrite", "--seed", "1", "--test", "0") == 0
    other = imported(tmp_path / "out")
    assert "test" not in other
    assert {a.vid for a in other["val"]} != {a.vid for a in found["val"]}


def test_rows_of_a_sentence_and_video_are_one_query(run, tmp_path: Path) -> None:
    rows = ["film01.mp4,4,5,A dog  jumps", "film01,1,2,a dog jumps", "film02,1,2,a dog jumps"]
    assert run(HEADER + "\n".join(rows), "--test", "0") == 0
    found = [a for of_it in imported(tmp_path / "out").values() for a in of_it]
    assert sorted((a.vid, a.query, a.windows) for a in found) == [
        ("film01", "A dog jumps", ((1.0, 2.0), (4.0, 5.0))),
        ("film02", "a dog jumps", ((1.0, 2.0),)),
    ]


DOUBTFUL = f"""{HEADER}film01,1,2,good
film02,1,6.3,good until the end
film01,3,2,backwards
film01,5,9,beyond
film01,7,8,after
film1,1,2,misnamed
film01,1,2,
film01,1,2,GOOD
film01,-1,2,before
film01,1:90,2,no time
nothing,1,2,unknown
"""
REASONS = """4: end 2 s is not after start 3 s
5: end 9 s is beyond the video, which has 6 s
6: start 7 s is beyond the video, which has 6 s
7: no video film1 in
8: the sentence is empty
9: the same as moments.csv:2
10: start -1 s is before the video
11: start '1:90' has 60 minutes or seconds, or more; expected
12: no video nothing in""".splitlines()


def test_everything_doubtful_is_listed_with_its_line(run, tmp_path: Path, capsys) -> None:
    assert run(DOUBTFUL) == 1
    listed = capsys.readouterr().err.splitlines()
    assert len(listed) == len(REASONS)
    for line, reason in zip(listed, REASONS, strict=True):
        assert line.startswith(f"left out: moments.csv:{reason}")
    assert "did you mean film01" in listed[3]
    found = [a for of_it in imported(tmp_path / "out").values() for a in of_it]
    assert sorted((a.query, a.windows) for a in found) == [
        ("good", ((1.0, 2.0),)),
        ("good until the end", ((1.0, 6.0),)),
    ]


def test_strict_writes_nothing_where_anything_is_doubtful(run, tmp_path: Path, capsys) -> None:
    with pytest.raises(InputError, match="9 of 11 moments are doubtful; nothing is written"):
        run(DOUBTFUL, "--strict")
    assert len(capsys.readouterr().err.splitlines()) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["moments.csv"]


def test_a_dataset_is_not_overwritten_silently(run, tmp_path: Path) -> None:
    assert run(moments(["film01", "film02"])) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
    with pytest.raises(InputError, match=r"out: has train.jsonl, val.jsonl already; .*--overwrite"):
        run(moments(["film03", "film04"]))
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
    assert before == after
    (tmp_path / "out" / "test.jsonl").write_text("{}")
    (tmp_path / "out" / "notes.txt").write_text("kept")
    assert run(moments(["film03", "film04"]), "--overwrite") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("train.jsonl", "val.jsonl", "videos", "notes.txt")
    }
    assert {x.stem for x in (tmp_path / "out" / "videos").iterdir()} == {"film03", "film04"}


def test_names_are_paths_or_files_in_any_spelling(run, tmp_path: Path) -> None:
    names = ["more/Cafe\u0301.mp4", "Caf\u00e9", r"C:\films\film01.mp4", "https://host/film02.mp4"]
    assert run(moments(names)) == 0
    found = {a.vid for of_it in imported(tmp_path / "out").values() for a in of_it}
    assert found == {"Caf\u00e9", "film01", "film02"}


def test_videos_of_one_name_are_told_apart(tmp_path: Path, videos: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / "films" / folder).mkdir(parents=True)
        shutil.copy(videos / "film00.mp4", tmp_path / "films" / folder / "x.mp4")
    (tmp_path / "m.csv").write_text(moments(["a/x", "b/x.mp4", "x"]))
    options = ["--videos", str(tmp_path / "films"), "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "m.csv"), *options]) == 1
    found = {a.vid for of_it in imported(tmp_path / "out").values() for a in of_it}
    assert found == {"a_x.mp4", "b_x.mp4"}
    assert {x.name for x in (tmp_path / "out" / "videos").iterdir()} == found


def test_splits_of_the_file_stay(run, tmp_path: Path) -> None:
    rows = ["film01,1,2,a,train", "film02,1,2,b,Validation", "film03,1,2,c,test"]
    text = HEADER.replace("\n", ",split\n") + "\n".join([*rows, "film04,1,2,d,", "film05,1,2,e,x"])
    assert run(text) == 1
    found = imported(tmp_path / "out")
    assert {split: [a.query for a in of_it] for split, of_it in found.items()} == {
        "train": ["a"],
        "val": ["b"],
        "test": ["c"],
    }


def test_videos_that_are_in_place_are_not_linked(videos: Path, tmp_path: Path) -> None:
    shutil.copytree(videos, tmp_path / "out" / "videos")
    (tmp_path / "m.csv").write_text(moments(["film01", "film02", "Café"]))
    options = ["--videos", str(tmp_path / "out" / "videos"), "--output", str(tmp_path / "out")]
    assert main([str(tmp_path / "m.csv"), *options]) == 0
    assert not (tmp_path / "out" / "videos" / "film01.mp4").is_symlink()
    assert set(imported(tmp_path / "out")) == {"train", "val", "test"}


def test_lengths_are_those_of_the_frames_that_decode(videos: Path, tmp_path: Path, capsys) -> None:
    films = tmp_path / "films"
    films.mkdir()
    cut_in_pictures(videos / "film00.mp4", films / "cut.mp4")
    shutil.copy(videos / "film00.mp4", films / "whole.mp4")
    (films / "noise.mp4").write_bytes(b"no video")
    (tmp_path / "m.csv").write_text(moments(["cut", "whole", "noise"]))
    options = ["--videos", str(films), "--output", str(tmp_path / "out"), "--test", "0"]
    assert main([str(tmp_path / "m.csv"), *options]) == 1
    listed = capsys.readouterr().err
    assert "damaged: " in listed
    assert "its video cannot be used: " in listed
    found = {a.vid: a for of_it in imported(tmp_path / "out").values() for a in of_it}
    reader = ClipReader(films / "cut.mp4", 2.0)
    for _ in reader:
        pass
    assert found["cut"].duration == pytest.approx(reader.duration)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "--videos is missing"),
        (["--videos", "films"], "--output is missing"),
        (["--videos", "films", "--output", "out", "--columns", "satz=x"], "FIELD of video, start"),
        (["--videos", "films", "--output", "out", "--val", "0"], "expected a share above 0"),
        (["--videos", "films", "--output", "out", "--test", "2"], "--test 2: expected a share"),
        (["--videos", "films", "--output", "m.csv"], "is a file; expected a folder"),
        (["--videos", "nowhere", "--output", "out"], "nowhere: no such file or folder"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.csv").write_text(moments(["a", "b"]))
    with pytest.raises(InputError, match=reason):
        main(["m.csv", *options])
    assert not Path("out").exists()


def test_one_video_is_too_few(run) -> None:
    with pytest.raises(InputError, match="1 video with moments; expected at least 2"):
        run(moments(["film01"]))


@pytest.mark.slow
def test_what_is_imported_trains_and_answers(
    tiny_dataset: Path, tiny_options: list[str], tmp_path: Path, own_cache: Path, capsys
) -> None:
    lines = [json.loads(x) for x in (tiny_dataset / "train.jsonl").read_text().splitlines()]
    rows = [
        f'{line["vid"]},{start},{end},"{line["query"]}"\n'
        for line in lines
        for start, end in line["relevant_windows"]
    ]
    (tmp_path / "m.csv").write_text(HEADER + "".join(rows))
    videos, root = tiny_dataset / "videos", tmp_path / "mine"
    assert main([str(tmp_path / "m.csv"), "--videos", str(videos), "--output", str(root)]) == 0
    options = [*tiny_options, "--data.root", str(root), "--train.epochs", "1"]
    assert train.main(["--output", str(tmp_path / "run"), *options]) == 0
    video = videos / f"{lines[0]['vid']}.mp4"
    capsys.readouterr()
    found = ["--video", str(video), "--query", lines[0]["query"]]
    assert ground.main(["--checkpoint", str(tmp_path / "run"), *found]) == 0
    assert lines[0]["query"] in capsys.readouterr().out
