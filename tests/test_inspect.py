"""`python -m sdst.inspect`: what a dataset is said to be, and what to be missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from sdst import convert
from sdst.data.annotations import Annotation
from sdst.data.jsonl import write_json_lines
from sdst.errors import InputError
from sdst.inspect import choose_examples, main
from tests.layouts import write_annotations, write_features

QUERY = {"query": "a cat jumps", "vid": "v", "duration": 40, "relevant_windows": [[2, 6]]}


def rows(printed: str) -> dict[str, list[str]]:
    """Cells of the printed table by label; columns are two spaces apart."""
    lines = [[cell.strip() for cell in line.split("  ") if cell] for line in printed.splitlines()]
    return {label: cells for label, *cells in lines}


@pytest.fixture
def shown(capsys: pytest.CaptureFixture):
    def show(*arguments: object) -> dict[str, list[str]]:
        main([str(argument) for argument in arguments])
        return rows(capsys.readouterr().out)

    return show


def test_a_file_is_summed_up_with_its_repairs(tmp_path, shown):
    records = [
        {"qid": 1, **QUERY, "query": " a cat jumps "},
        {"qid": 2, **QUERY, "relevant_windows": [[0, 20], [30, 40.2]]},
        {"qid": 3, **QUERY, "vid": "w", "duration": 20, "relevant_windows": [[1, 1.5]]},
    ]
    write_json_lines(tmp_path / "mine.jsonl", records)
    found = shown("--annotations", tmp_path / "mine.jsonl", "--clip-length", 1)
    assert found["median (least-most)"] == ["mine"]
    assert found["queries"] == ["3"]
    assert found["videos"] == ["2"]
    assert found["video length (s)"] == ["30 (20-40)"]
    assert found["moments"] == ["4"]
    assert found["windows per query (mean)"] == ["1.33"]
    assert found["moment length (s)"] == ["7 (0.5-20)"]
    assert found["moments of 0-10 s, short (%)"] == ["75.0"]
    assert found["repaired: queries stripped of spaces"] == ["1"]
    assert found["repaired: windows clamped to the video's end"] == ["1"]
    assert found["repaired: moments shorter than a clip, trained on as one clip"] == ["1"]


def test_real_files_are_counted(shared_data: Path, shown):
    files = sorted((shared_data / "qvhighlights").glob("highlight_*_release.jsonl"))
    found = shown("--annotations", *files)
    assert found["queries"] == found["queries with rated clips"] == ["7,218", "1,550"]


def test_unlabelled_queries_are_counted(tmp_path, shown):
    write_json_lines(tmp_path / "a.jsonl", [{"qid": 1, **QUERY, "relevant_windows": None}])
    found = shown("--annotations", tmp_path / "a.jsonl", "--plot", tmp_path / "out.png")
    assert found["queries without windows"] == ["1"]
    assert "moments" not in found
    assert (tmp_path / "out.png").exists()


def test_files_of_one_name_are_told_apart(tmp_path, shown):
    files = [tmp_path / folder / "val.jsonl" for folder in ("a", "b")]
    for file in files:
        write_json_lines(file, [{"qid": 1, **QUERY}])
    assert shown("--annotations", *files)["median (least-most)"] == [str(file) for file in files]


def test_a_folder_without_annotations_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none of train.jsonl, val.jsonl, test.jsonl is there"):
        main(["--root", str(tmp_path)])


def test_videos_in_two_splits_are_reported(tmp_path, shown):
    for name in ("train", "val"):
        write_json_lines(tmp_path / f"{name}.jsonl", [{"qid": name, **QUERY}])
    found = shown("--annotations", tmp_path / "train.jsonl", tmp_path / "val.jsonl")
    assert "val: 1 of its videos are in train, too" in found


def test_a_folder_is_shown_with_what_is_missing_and_a_picture(tiny_dataset, tmp_path, shown):
    root = shutil.copytree(tiny_dataset, tmp_path / "data", ignore=shutil.ignore_patterns("feat*"))
    (root / "test.jsonl").unlink()
    lost = sorted((root / "videos").iterdir())[0]
    lost.unlink()
    picture = tmp_path / "out.png"
    found = shown("--root", root, "--clip-length", 1, "--plot", picture, "--examples", 2)
    assert found["median (least-most)"] == ["train", "val"]
    assert f"test: not there, expected {root / 'test.jsonl'}" in found
    videos = next(line for line in found if line.startswith(str(root / "videos")))
    assert "of 8 videos" in videos
    assert any(line.startswith("no features yet") for line in found)
    assert Image.open(picture).height > 1500


def test_feature_files_are_counted_before_and_after_packing(tmp_path, shown):
    write_annotations(tmp_path)
    options = ["--config", "demo", *write_features(tmp_path, "moment_detr")]
    whole = f"{tmp_path}: features of 12 of 12 videos; 24 of 24 queries; 1 layers, 1 x 32 per clip"
    assert any(line.startswith(whole) for line in shown(*options))
    convert.main(options)
    assert any("12 of 12 videos; 24 of 24" in line for line in shown(*options))
    (tmp_path / "clip" / "v3.npz").unlink()
    shutil.rmtree(tmp_path / "features")
    assert any("11 of 12 videos (missing: v3); 24" in line for line in shown(*options))
    shutil.rmtree(tmp_path / "text")
    assert any(line.startswith(f"no features: {tmp_path / 'text'}") for line in shown(*options))


def test_a_damaged_store_is_refused(tmp_path, shown):
    write_annotations(tmp_path)
    options = ["--config", "demo", *write_features(tmp_path, "moment_detr")]
    convert.main(options)
    [tokens] = tmp_path.glob("features/*/video_tokens.bin")
    tokens.write_bytes(bytes(tokens.stat().st_size))
    with pytest.raises(InputError, match=r"12 entries are not what was written \(first: video v0"):
        shown(*options)


def test_examples_are_labelled_and_spread_over_the_last_split():
    labelled = [Annotation(i, "q", f"v{i}", 10.0, ((1.0, 2.0),)) for i in range(9)]
    splits = {"val": labelled, "test": [Annotation(9, "q", "v9", 10.0)]}
    assert [a.qid for a in choose_examples(splits, 3)] == [0, 4, 8]
    assert choose_examples({"test": splits["test"]}, 3) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--annotations", "no-such.jsonl"], "no-such.jsonl: cannot be read"),
        (["--annotations", "a.jsonl", "--root", "data"], "not both"),
        (["--root", "no-such-folder"], "no-such-folder"),
        (["--annotations", "a.jsonl", "--plot", "out.xyz"], "no picture format"),
        (["--annotations", "a.jsonl", "--clip-length", "0"], "--clip-length is 0"),
    ],
)
def test_a_wrong_call_is_one_line(options: list[str], named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        main(options)
    assert "\n" not in str(error.value)
