"""Packing feature files: the same features, at once or in pieces, found by training."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst import train
from sdst.config import load_config
from sdst.convert import main
from sdst.data.store import writer
from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from sdst.kernels import dequantize
from sdst.sources.dataset import open_data
from tests.features import META, text_features, video_features
from tests.layouts import WIDTHS, training_options, write_annotations, write_features


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    write_annotations(tmp_path / "data")
    return ["--config", "demo", *write_features(tmp_path / "data", "moment_detr")]


def content(root: Path) -> dict[str, bytes]:
    [store] = (root / "features").iterdir()
    return {file.name: file.read_bytes() for file in store.iterdir()}


def source(options: list[str], layout: str = "moment_detr"):
    return open_data(load_config("demo", [*options[2:], *training_options(layout)])).source


@pytest.mark.parametrize("layout", WIDTHS)
def test_the_store_holds_what_the_files_hold(tmp_path, layout):
    write_annotations(tmp_path)
    options = ["--config", "demo", *write_features(tmp_path, layout)]
    files = source(options, layout)
    assert main([*options, "--store-dtype", "float32"]) == 0
    store = source(options, layout)
    assert isinstance(store, FeatureStore)
    assert store.shapes == files.shapes
    for vid in files.video_ids:
        np.testing.assert_array_equal(store.video(vid).tokens, files.video(vid).tokens)
        assert store.video(vid).duration == files.video(vid).duration
    for qid in files.query_ids:
        np.testing.assert_array_equal(store.query(qid).tokens, files.query(qid).tokens)


def test_training_from_the_store_gives_the_figures_of_the_files(options, tmp_path):
    training = [*options, *training_options("moment_detr")]
    train.main(["--output", str(tmp_path / "files"), *training])
    main([*options, "--store-dtype", "float32"])
    train.main(["--output", str(tmp_path / "store"), *training])
    one, other = (
        json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("files", "store")
    )
    assert one["report"] == other["report"]


def test_a_run_on_the_files_resumes_on_the_store(options, tmp_path):
    training = [*options, *training_options("moment_detr"), "--output", str(tmp_path / "run")]
    train.main(training)
    main(options)
    assert train.main([*training, "--resume"]) == 0


def test_half_precision_is_the_default(options, tmp_path):
    main(options)
    assert source(options).video("v0").tokens.dtype == np.float16


def test_killed_and_run_again_it_resumes_to_the_same_store(options, tmp_path):
    code = f"""
import os, signal
from sdst.convert import main
from sdst.data.store.writer import FeatureWriter
add = FeatureWriter.add_video
def add_or_die(self, vid, *rest):
    if vid == "v5":
        os.kill(os.getpid(), signal.SIGKILL)
    add(self, vid, *rest)
FeatureWriter.add_video = add_or_die
main({options!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -signal.SIGKILL
    root = tmp_path / "data"
    assert [path.suffix for path in (root / "features").iterdir()] == [".partial"]
    packed = [root / "clip" / f"v{i}.npz" for i in (1, 2, 3, 4)]
    before = {file: file.read_bytes() for file in packed}
    for file in packed:
        file.write_bytes(b"must not be read again")
    assert main(options) == 0
    for file, was in before.items():
        file.write_bytes(was)
    resumed = content(root)
    for file in (root / "features").glob("*/*"):
        file.unlink()
    next((root / "features").iterdir()).rmdir()
    main(options)
    assert content(root) == resumed


def test_a_corrupt_file_is_named_and_the_next_run_resumes(options, tmp_path):
    file = tmp_path / "data" / "clip" / "v7.npz"
    good = file.read_bytes()
    file.write_bytes(good[:200])
    with pytest.raises(InputError, match=r"v7\.npz: cannot be read"):
        main(options)
    file.write_bytes(good)
    assert main(options) == 0


def test_verification_accepts_an_intact_store_and_finds_a_changed_one(options, tmp_path, capsys):
    main(options)
    assert main([*options, "--verify"]) == 0
    assert "intact" in capsys.readouterr().out
    [file] = (tmp_path / "data" / "features").glob("*/video_tokens.bin")
    changed = bytearray(file.read_bytes())
    changed[0] ^= 1
    file.write_bytes(changed)
    with pytest.raises(InputError, match=r"1 entries .* \(first: video v0\)"):
        main([*options, "--verify"])


def test_other_settings_are_another_store(options, tmp_path):
    main(options)
    main([*options, "--data.endpoints", "true"])
    assert len(list((tmp_path / "data" / "features").iterdir())) == 2


def test_packed_again_a_store_gets_what_is_new(options, tmp_path):
    main([*options, "--data.limit", "2"])
    [store] = (tmp_path / "data" / "features").iterdir()
    few = FeatureStore(store).video_ids
    with pytest.raises(InputError, match=r"annotated videos.*sdst\.convert"):
        source(options)
    main(options)
    assert source(options).video_ids[: len(few)] == few
    assert len(source(options).video_ids) == 12 > len(few)
    before = content(tmp_path / "data")
    (tmp_path / "data" / "clip").rename(tmp_path / "clip")
    main(options)
    assert content(tmp_path / "data") == before
    with pytest.raises(InputError, match="dtype 'float16', expected 'float32'"):
        (tmp_path / "clip").rename(tmp_path / "data" / "clip")
        main([*options, "--store-dtype", "float32"])


def test_the_files_are_not_needed_once_packed(options, tmp_path):
    main(options)
    for folder in ("clip", "slowfast", "text"):
        (tmp_path / "data" / folder).rename(tmp_path / folder)
    assert len(source(options).video_ids) == 12


def test_what_annotations_got_since_is_missing_from_the_store(options, tmp_path):
    main(options)
    file = tmp_path / "data" / "val.jsonl"
    new = {**json.loads(file.read_text().splitlines()[0]), "qid": 99, "vid": "new"}
    file.write_text(file.read_text() + json.dumps(new) + "\n")
    with pytest.raises(InputError, match=r"videos \(new\) and 1 of 25 annotated queries \(99\)"):
        source(options)


def test_without_a_gpu_the_store_stays_a_memory_map(options, caplog, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    main(options)
    store = source([*options, "--data.on_device", "true"])
    assert isinstance(store.video("v0").tokens, np.ndarray)
    assert "no GPU" in caplog.text


def test_videos_are_not_for_packing():
    with pytest.raises(InputError, match=r"sdst\.extract encodes videos"):
        main(["--config", "demo"])


@pytest.fixture
def grown(tmp_path: Path) -> FeatureStore:
    """A store in which a video and a query were replaced by others, a damaged one among them."""
    for round in (1, 2):
        with FeatureWriter(tmp_path / "grown", META, resume=True) as writer:
            for vid, clips in (("a", 3 + round), ("b", 2)):
                if round == 1 or vid == "a":
                    video = writer.begin_video(vid, clips, origin=round)
                    video.write(*video_features(clips, seed=round))
                    video.finish(2.0 * clips, ["cut"] if vid == "b" else [])
            writer.add_query(7, *text_features(3 + round, seed=round), origin=round)
    return FeatureStore(tmp_path / "grown")


def repacked(store: FeatureStore, name: str, *options: str) -> FeatureStore:
    path = store.path.parent / name
    assert main(["--store", str(store.path), "--output", str(path), *options]) == 0
    copy = FeatureStore(path)
    copy.verify(progress=False)
    return copy


def test_a_copy_of_a_store_leaves_behind_what_was_replaced(grown, monkeypatch):
    monkeypatch.setattr(writer, "CLIPS_AT_ONCE", 2)
    copy = repacked(grown, "copy")
    assert 0 < copy.nbytes < grown.nbytes
    assert (copy.meta, copy.dtype, copy.faults) == (grown.meta, grown.dtype, {"b": ["cut"]})
    assert copy.video_origins == grown.video_origins == {"a": 2, "b": 1}
    assert copy.query_origins == grown.query_origins == {7: 2}
    for vid in grown:
        one, other = grown.video(vid), copy.video(vid)
        assert one.duration == other.duration
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_array_equal(one.embedding, other.embedding)
    np.testing.assert_array_equal(grown.query(7).tokens, copy.query(7).tokens)
    np.testing.assert_array_equal(grown.query(7).embedding, copy.query(7).embedding)


def test_a_store_becomes_one_of_int8_and_back(grown):
    small = repacked(grown, "small", "--store-dtype", "int8")
    same, wide = repacked(small, "same"), repacked(small, "wide", "--store-dtype", "float32")
    for vid in grown:
        video, values = grown.video(vid), small.video(vid)
        step = np.abs(video.tokens.astype(np.float32)).max(-1, keepdims=True) / 127
        meant = dequantize(*(torch.tensor(x) for x in (values.tokens, values.scales))).numpy()
        assert (np.abs(meant - video.tokens) <= 0.5001 * step).all()
        np.testing.assert_array_equal(wide.video(vid).tokens, meant)
        assert wide.video(vid).scales is None
        np.testing.assert_array_equal(same.video(vid).tokens, values.tokens)
        np.testing.assert_array_equal(same.video(vid).scales, values.scales)


def test_copied_again_a_store_gets_what_is_new(grown):
    before = repacked(grown, "copy")
    with FeatureWriter(grown.path, META, resume=True) as writer:
        writer.add_video("c", 4.0, *video_features(2, seed=9))
    assert repacked(FeatureStore(grown.path), "copy").video_ids == [*before.video_ids, "c"]
    with pytest.raises(InputError, match="dtype 'float16', expected 'int8'"):
        repacked(grown, "copy", "--store-dtype", "int8")


def test_any_store_is_verified(grown, capsys):
    assert main(["--store", str(grown.path), "--verify"]) == 0
    assert "2 videos, 1 queries" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --config or --store"),
        (["--config", "demo", "--store", "x"], "give either --config or --store"),
        (["--config", "demo", "--output", "x"], "--output goes with --store"),
        (["--store", "{grown}"], "--store goes with --output"),
        (["--store", "{grown}", "--output", "x", "--verify"], "or with --verify"),
        (["--store", "{grown}", "--output", "{grown}"], "is the store itself"),
        (["--store", "{grown}", "--output", "x", "--dtpe", "int8"], "unknown option --dtpe"),
        (["--store", "nothing", "--output", "x"], "nothing: no feature store there"),
    ],
)
def test_what_makes_no_sense_is_refused(grown, arguments, message):
    with pytest.raises(InputError, match=message):
        main([part.format(grown=grown.path) for part in arguments])
