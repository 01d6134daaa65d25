"""A stranger's videos: three commands from a folder of files to the moments of a new one."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Barrier

import pytest

from sdst import evaluate, extract, ground, train
from sdst.config import load_config, save_config
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from sdst.extraction.pipeline import extract_features
from sdst.files.sealed import read_sealed, seal
from sdst.sources import encoded
from sdst.sources.dataset import open_data
from tests.videos import cut_in_pictures

SETTINGS = {
    "data.backbone": "demo",
    "data.clip_length": 0.5,
    "data.frames_per_clip": 2,
    "model.layers": 3,
    "model.width": 32,
    "model.queries": 5,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.warmup_steps": 2,
}


def options(root: Path, **changed: object) -> list[str]:
    settings = {"data.root": root, **SETTINGS, **changed}
    named = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return ["--config", "custom", *named]


@pytest.fixture(scope="module")
def root(tiny_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos under names of their own, a train and a val file, ids that are strings."""
    root = tmp_path_factory.mktemp("stranger") / "my videos"
    (root / "videos").mkdir(parents=True)
    for split in ("train", "val"):
        lines = []
        for line in (tiny_dataset / f"{split}.jsonl").open():
            record = json.loads(line)
            [file] = (tiny_dataset / "videos").glob(f"{record['vid']}.*")
            vid = f"holiday {record['vid']} (1)"
            shutil.copy(file, root / "videos" / f"{vid}{file.suffix}")
            kept = {key: record[key] for key in ("query", "duration", "relevant_windows")}
            lines.append({"qid": f"q-{record['qid']}", "vid": vid, **kept})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (root / f"{split}.jsonl").write_text(text)
    return root


@pytest.fixture(scope="module")
def checkpoint(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the first two commands leave."""
    output = tmp_path_factory.mktemp("runs") / "mine"
    assert extract.main(options(root)) == 0
    assert train.main(["--output", str(output), *options(root)]) == 0
    return output


def test_training_finds_what_was_extracted(checkpoint: Path, root: Path):
    [store] = (root / "features").iterdir()
    index = json.loads((store / "index.json").read_text())
    assert index["meta"]["clip_length"] == 0.5 and index["meta"]["frames_per_clip"] == 2
    assert index["shapes"]["layers"] == 3


def test_the_checkpoint_carries_the_settings_and_the_widths(checkpoint: Path):
    config = load_config(checkpoint / "config.yaml")
    assert (config.data.clip_length, config.data.frames_per_clip) == (0.5, 2)
    assert (config.model.layers, config.model.video_width, config.model.text_width) == (3, 96, 96)


def test_the_checkpoint_carries_stretches_as_long_as_most_of_its_videos(checkpoint: Path, root):
    records = [json.loads(line) for line in (root / "train.jsonl").open()]
    longest = max(record["duration"] for record in records) / 0.5
    predict = load_config(checkpoint / "config.yaml").predict
    assert 0.75 * longest < predict.stretch <= longest
    assert 1 < predict.overlap <= predict.stretch / 2


def test_an_overlap_as_long_as_the_videos_is_refused_before_training(checkpoint, root):
    with pytest.raises(InputError, match=r"predict\.overlap is 500, expected less than the \d+"):
        open_data(load_config("custom", [*options(root)[2:], "--predict.overlap", "500"]))


def test_a_run_that_is_resumed_keeps_how_long_videos_are_cut(checkpoint, root, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    config = load_config(run / "config.yaml")
    save_config(replace(config, predict=replace(config.predict, stretch=99)), run / "config.yaml")
    assert train.main(["--output", str(run), "--resume", *options(root)]) == 0
    assert load_config(run / "config.yaml").predict.stretch == 99


def test_a_run_resumes_and_is_evaluated_with_data_at_another_place(checkpoint, root, tmp_path):
    run, moved = shutil.copytree(checkpoint, tmp_path / "run"), copied(root, tmp_path)
    evaluate.main(["--checkpoint", str(run), "--data.root", str(moved)])
    assert train.main(["--output", str(run), "--resume", *options(moved)]) == 0
    assert load_config(run / "config.yaml").data.root == str(moved)
    first, *rest = (moved / "train.jsonl").read_text().splitlines(keepends=True)
    (moved / "train.jsonl").write_text("".join([*rest, first]))
    with pytest.raises(InputError, match=r"was started on other features \(features\.queries"):
        train.main(["--output", str(run), "--resume", *options(moved)])


def test_all_videos_that_cannot_be_read_are_named_at_once(root, tmp_path):
    copy = copied(root, tmp_path)
    for features in (copy / "features").glob("*"):
        shutil.rmtree(features)
    first, second, *_ = sorted((copy / "videos").iterdir())
    first.write_text("<!DOCTYPE html>")
    second.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match=r"^2 of \d+ videos cannot be read: ") as raised:
        extract.main(options(copy))
    for name, found in ((first.name, "is a web page"), (second.name, "is a Git LFS pointer")):
        assert f"{name}: {found}" in str(raised.value)


def test_what_lies_beside_a_video_is_not_taken_for_it(checkpoint, root, tmp_path):
    copy = copied(root, tmp_path)
    video = sorted((copy / "videos").iterdir())[0]
    for ending in (".srt", ".wav", ".webp", ".json"):
        video.with_suffix(ending).write_text("no video")
    [store] = (copy / "features").iterdir()
    before = (store / "index.json").read_bytes()
    assert extract.main(options(copy)) == 0
    assert (store / "index.json").read_bytes() == before
    shutil.copy(video, video.with_suffix(".mkv"))
    with pytest.raises(InputError, match="have the same id holiday"):
        extract.main(options(copy))


def test_a_video_of_which_half_is_missing_is_used_as_far_as_it_goes(checkpoint, root, tmp_path):
    copy = copied(root, tmp_path)
    record = json.loads((copy / "train.jsonl").read_text().splitlines()[0])
    video = copy / "videos" / f"{record['vid']}.mp4"
    cut_in_pictures(shutil.copy(video, tmp_path / "whole.mp4"), video, kept=0.5)
    data = open_data(load_config("custom", options(copy, **{"data.allow_missing": "true"})[2:]))
    assert data.source.faults[record["vid"]]
    assert data.source.video(record["vid"]).duration < record["duration"]


def test_moments_behind_the_end_of_a_damaged_video_are_not_learnt(
    checkpoint, root, tmp_path, caplog
):
    copy = copied(root, tmp_path)
    lines = (copy / "train.jsonl").read_text().splitlines()
    end = json.loads(lines[0])["duration"]
    rewrite(copy / "train.jsonl", duration=end + 9, relevant_windows=[[end + 5, end + 8]])
    data = open_data(load_config("custom", options(copy)[2:]))
    assert len(data.dataset("train")) == len(lines) - 1
    assert f"1 of {len(lines)} queries of train" in caplog.text


def test_a_new_video_is_grounded_at_the_settings_of_the_training(
    checkpoint: Path, tiny_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SDST_CACHE", str(tmp_path / "cache"))
    record = json.loads((tiny_dataset / "test.jsonl").read_text().splitlines()[0])
    [file] = (tiny_dataset / "videos").glob(f"{record['vid']}.*")
    command = ["--checkpoint", str(checkpoint), "--video", str(file), "--query", record["query"]]
    assert ground.main([*command, "--json", str(tmp_path / "answer.json")]) == 0
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["clip_length"] == 0.5
    clips = len(answer["answers"][0]["pred_saliency_scores"])
    assert clips == pytest.approx(answer["duration"] / 0.5, abs=1)


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("data.clip_length", 1.0, r"data\.clip_length was 0\.5, now 1\.0"),
        ("data.frames_per_clip", 1, r"data\.frames_per_clip was 2, now 1"),
        ("model.layers", 4, r"model\.layers was 3, now 4"),
    ],
)
def test_resuming_at_other_settings_is_refused(checkpoint, root, key, value, named):
    with pytest.raises(InputError, match=named):
        train.main(["--output", str(checkpoint), "--resume", *options(root, **{key: value})])


def test_resuming_on_other_weights_of_the_backbone_is_refused(checkpoint, root, tmp_path):
    run = shutil.copytree(checkpoint, tmp_path / "run")
    features = read_sealed(run / "features.json", "")
    (run / "features.json").write_text(seal({**features, "fingerprint": "f00"}))
    with pytest.raises(InputError, match=r"features\.fingerprint was 'f00'"):
        train.main(["--output", str(run), "--resume", *options(root)])


def test_training_reads_a_store_of_int8(root: Path, tmp_path, capsys):
    """With the sparse context, whose kernels read the integers; then all that grounds."""
    small = options(root, **{"data.store_dtype": "int8"})
    assert train.main(["--output", str(tmp_path / "run"), *small]) == 0
    stores = [FeatureStore(path) for path in (root / "features").iterdir()]
    [store] = [store for store in stores if store.dtype == "int8"]
    video = next((root / "videos").iterdir())
    asked = ["--checkpoint", str(tmp_path / "run"), "--query", "a red ball"]
    assert ground.main([*asked, "--video", str(video)]) == 0
    assert ground.main([*asked, "--store", str(store.path)]) == 0
    assert f"best of {len(store)} videos" in capsys.readouterr().out
    shutil.rmtree(store.path)  # the other tests count the stores


def test_extracting_twice_encodes_once(checkpoint, root, capsys):
    [before] = (root / "features").iterdir()
    changed = (before / "index.json").stat().st_mtime_ns
    assert extract.main(options(root)) == 0
    assert (before / "index.json").stat().st_mtime_ns == changed
    assert str(before) in capsys.readouterr().out


def test_of_two_runs_at_once_one_encodes_and_the_other_waits(
    checkpoint, root, tmp_path, monkeypatch, caplog
):
    copy = copied(root, tmp_path)
    shutil.rmtree(copy / "features")
    begin, calls = Barrier(2, timeout=60), count()

    def together(*arguments: object, **options: object) -> FeatureStore:
        if next(calls) < 2:
            begin.wait()
        return extract_features(*arguments, **options)

    monkeypatch.setattr(encoded, "extract_features", together)
    monkeypatch.setattr(encoded, "LOOK_AGAIN", 0.1)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(open_data, 2 * [load_config("custom", options(copy)[2:])])
    assert "another process is writing this store; waiting for it" in caplog.text
    assert one.source.path == other.source.path
    [expected], [store] = (folder.iterdir() for folder in (root / "features", copy / "features"))
    for file in expected.iterdir():
        assert (store / file.name).read_bytes() == file.read_bytes()


def copied(root: Path, to: Path) -> Path:
    """The stranger's folder, its features included."""
    return shutil.copytree(root, to / "copy")


def rewrite(file: Path, **first: object) -> None:
    """Change the first line of annotations."""
    [line, *rest] = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(line), **first}), *rest]))


def test_the_store_grows_with_the_dataset(checkpoint, root, tmp_path):
    copy = copied(root, tmp_path)
    [path] = (copy / "features").iterdir()
    old = FeatureStore(path)
    video = sorted((copy / "videos").iterdir())[0]
    rewrite(copy / "train.jsonl", query="quite another sentence")
    shutil.copy(video, video.with_stem("new"))
    record = json.loads((copy / "val.jsonl").read_text().splitlines()[0])
    added = {**record, "qid": "q-new", "vid": "new", "duration": old.video(video.stem).duration}
    with (copy / "val.jsonl").open("a") as file:
        file.write("\n" + json.dumps({**added, "relevant_windows": [[0, 1]]}))
    assert extract.main(options(copy)) == 0
    assert [*(copy / "features").iterdir()] == [path], "another store was made"
    store = FeatureStore(path)
    assert store.video_ids == [*old.video_ids, "new"]
    assert store.query_ids == [*old.query_ids, "q-new"]
    changed = {q for q in old.query_ids if store.query_origins[q] != old.query_origins[q]}
    assert changed == {json.loads((copy / "train.jsonl").read_text().splitlines()[0])["qid"]}


def test_a_store_that_another_process_writes_serves_those_who_may_miss_some(
    checkpoint, root, tmp_path
):
    copy = copied(root, tmp_path)
    [path] = (copy / "features").iterdir()
    meta = FeatureStore(path).meta
    sorted((copy / "videos").iterdir())[0].write_bytes(b"no video, and not to be read ever")
    with FeatureWriter(path, meta, resume=True):
        assert extract.main(options(copy, **{"data.allow_missing": "true"})) == 0
        with pytest.raises(InputError, match="another process is writing"):
            extract.main(options(copy))


def test_a_missing_video_is_left_out_where_allowed(checkpoint, root, tmp_path):
    copy = copied(root, tmp_path)
    gone = sorted((copy / "videos").iterdir())[0]
    gone.unlink()
    with pytest.raises(InputError, match=f"1 of 8 annotated videos .*{re.escape(gone.stem)}"):
        extract.main(options(copy))
    assert extract.main(options(copy, **{"data.allow_missing": "true"})) == 0


def test_the_annotations_of_another_cut_are_refused(checkpoint, root, tmp_path):
    copy = copied(root, tmp_path)
    rewrite(copy / "val.jsonl", duration=300)
    with pytest.raises(InputError, match="has 300 s, its file has"):
        extract.main(options(copy))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "either --config or --videos"),
        (["--config", "custom", "--videos", "a.mp4"], "either --config or --videos"),
        (["--config", "custom", "--layers", "3"], "--layers goes with --videos"),
        (["--config", "qvhighlights_internvideo2"], "exist already"),
        (["--videos", "a.mp4", "--data.root", "x"], r"unknown option --data\.root"),
        (["--videos", "a.mp4"], "--output"),
        (
            ["--videos", "a.mp4", "--output", "x"],
            "--videos needs --backbone NAME: MODEL",
        ),
    ],
)
def test_options_that_do_not_go_together_are_reported(arguments, named):
    with pytest.raises(InputError, match=named):
        extract.main(arguments)
