"""Feature files of every layout are read, trained on, and reported when they are faulty."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from sdst import train
from sdst.config import load_config
from sdst.convert import main as convert
from sdst.data.batches import collate
from sdst.errors import InputError
from sdst.evaluate import main as evaluate
from sdst.sources.dataset import Data, open_data
from tests.layouts import (
    WIDTHS,
    clips_of,
    train_in_two_sittings,
    training_options,
    write_annotations,
    write_features,
)


def dataset(root: Path, layout: str) -> list[str]:
    write_annotations(root)
    return write_features(root, layout)


def opened(options: list[str], layout: str, *more: str) -> Data:
    return open_data(load_config("demo", [*options, *training_options(layout), *more]))


@pytest.mark.parametrize("layout", WIDTHS)
def test_every_layout_trains_evaluates_and_resumes(layout, tmp_path, monkeypatch, capsys):
    options = [*dataset(tmp_path / "data", layout), *training_options(layout)]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train.main(["--output", str(whole), *options]) == 0
    assert "zero-shot: skipped" in capsys.readouterr().out
    evaluate(["--checkpoint", str(whole), "--json", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    metrics = json.loads((whole / "metrics.json").read_text())
    assert report["brief"] == metrics["report"]["brief"]
    train_in_two_sittings(monkeypatch, stopped, options)
    again = json.loads((stopped / "metrics.json").read_text())
    assert again["report"] == metrics["report"]


def test_layers_come_first_and_pooled_clips_have_one_token(tmp_path):
    data = opened(dataset(tmp_path, "sdst"), "sdst")
    file = np.load(tmp_path / "video" / "v3.npz")["visual_feats_interm_pooled"]
    found = data.source.video("v3").tokens
    np.testing.assert_array_equal(found[:, :, 0], file.transpose(1, 0, 2))
    text = np.load(tmp_path / "text" / "5.npz")["text_feats"]
    np.testing.assert_array_equal(data.source.query(5).tokens, text)


def test_sources_are_normalised_cut_to_the_shortest_and_joined_in_order(tmp_path):
    data = opened(dataset(tmp_path, "moment_detr"), "moment_detr")
    found = data.source.video("v4").tokens
    parts = [np.load(tmp_path / kind / "v4.npz")["features"] for kind in ("slowfast", "clip")]
    expected = [x.astype(np.float32)[: clips_of("v4")] for x in parts]
    expected = [x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) for x in expected]
    assert found.shape == (1, clips_of("v4"), 1, 32)
    np.testing.assert_allclose(found[0, :, 0], np.concatenate(expected, 1), rtol=1e-6)


def test_the_order_of_sources_is_configuration(tmp_path):
    options = dataset(tmp_path, "moment_detr")
    [one, other] = [
        opened(options, "moment_detr", "--data.video_features", order).source.video("v0").tokens
        for order in ('["slowfast", "clip"]', '["clip", "slowfast"]')
    ]
    np.testing.assert_array_equal(np.roll(one, 12, axis=-1), other)


def test_picture_and_flow_of_two_files_are_joined(tmp_path):
    data = opened(dataset(tmp_path, "univtg_two_streams"), "univtg_two_streams")
    flow = np.load(tmp_path / "video" / "v1_opt.npy")
    flow /= np.linalg.norm(flow, axis=1, keepdims=True) + 1e-5
    np.testing.assert_allclose(data.source.video("v1").tokens[0, :, 0, 20:], flow, rtol=1e-6)


def test_patches_of_r2_tuning_keep_their_half_precision(tmp_path):
    data = opened(dataset(tmp_path, "r2_tuning"), "r2_tuning")
    file = np.load(tmp_path / "video" / "v2.npy").reshape(-1, 4, 50, 768)
    found = data.source.video("v2").tokens
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, file.transpose(1, 0, 2, 3))
    text = np.load(tmp_path / "text" / "2.npy")
    np.testing.assert_array_equal(data.source.query(2).tokens, text.transpose(1, 0, 2))


def test_padding_of_r2_tuning_is_dropped(tmp_path):
    options = dataset(tmp_path, "r2_tuning")
    file = tmp_path / "video" / "v2.npy"
    clips = np.load(file)
    np.save(file, np.pad(clips, ((0, 2), (0, 0)), constant_values=np.inf))
    assert opened(options, "r2_tuning").source.video("v2").tokens.shape[1] == len(clips)


def test_the_camera_in_names_of_tacos_is_found(tmp_path):
    options = dataset(tmp_path, "r2_tuning")
    for file in (tmp_path / "video").iterdir():
        file.rename(file.with_stem(f"{file.stem}-cam-002"))
    assert len(opened(options, "r2_tuning").source.video_ids) == 12


def test_text_files_may_be_called_by_the_bare_qid_and_hold_tokens(tmp_path):
    options = dataset(tmp_path, "univtg")
    for file in list((tmp_path / "text").iterdir()):
        np.savez(file.with_stem(file.stem[3:]), token=np.load(file)["last_hidden_state"])
        file.unlink()
    assert len(opened(options, "univtg").source.query_ids) == 24


def test_endpoints_say_where_in_the_video_a_clip_is(tmp_path):
    options = dataset(tmp_path, "univtg")
    data = opened(options, "univtg", "--data.endpoints", "true", "--model.video_width", "34")
    clips = clips_of("v0")
    found = data.source.video("v0").tokens[0, :, 0, 32:]
    np.testing.assert_allclose(found[:, 0], np.arange(clips) / clips, rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], np.arange(1, clips + 1) / clips, rtol=1e-6)


def test_one_layer_is_repeated_for_the_recurrence_without_a_copy(tmp_path):
    dataset_ = opened(dataset(tmp_path, "univtg"), "univtg").dataset("train")
    batch = collate([dataset_[0], dataset_[5]])
    assert batch.video.shape[:2] == (2, 4) and batch.video.stride(1) == 0
    assert batch.text.shape[:2] == (2, 4) and batch.text.stride(1) == 0
    moved = batch.to(batch.video.device)
    assert moved.video.stride(1) == 0 and moved.video.equal(batch.video)


def test_fewer_layers_than_the_features_have_are_the_last_ones(tmp_path):
    options = dataset(tmp_path, "sdst")
    whole = opened(options, "sdst").source
    data = opened(options, "sdst", "--model.layers", "3")
    for kind, key in (("video", "v0"), ("query", data.splits["train"][0].qid)):
        found, layers = getattr(data.source, kind)(key).tokens, getattr(whole, kind)(key).tokens
        assert len(layers) == 5
        np.testing.assert_array_equal(found, layers[2:])
    batch = collate([data.dataset("train")[0]])
    assert (batch.video.shape[1], batch.text.shape[1]) == (3, 3)


def test_the_last_layer_alone_is_read_at_every_step(tmp_path):
    options = dataset(tmp_path, "sdst")
    last = opened(options, "sdst").source.video("v0").tokens[-1:]
    data = opened(options, "sdst", "--data.last_layer", "true")
    np.testing.assert_array_equal(data.source.video("v0").tokens, last)
    batch = collate([data.dataset("train")[0]])
    assert batch.video.shape[1] == 5 and batch.video.stride(1) == 0


def test_widths_left_open_are_those_of_the_features(tmp_path):
    more = ("--model.video_width", "0", "--model.text_width", "0")
    config = opened(dataset(tmp_path, "univtg"), "univtg", *more).config
    assert (config.model.video_width, config.model.text_width) == WIDTHS["univtg"]


@pytest.mark.parametrize(
    ("batch_size", "epochs", "length"),
    [(1, "auto", (30, 1)), (2, "auto", (38, 2)), (9, "auto", (300, 10)), (1, "7", (7, 1))],
)
def test_few_queries_are_passed_over_until_that_is_worth_it(tmp_path, batch_size, epochs, length):
    more = ("--train.batch_size", str(batch_size), "--train.epochs", epochs)
    config = opened(
        dataset(tmp_path, "univtg"), "univtg", *more, "--train.validate_every", "auto"
    ).config
    assert config.train.length == length


def spoil_corrupt(root: Path) -> None:
    file = root / "clip" / "v0.npz"
    file.write_bytes(file.read_bytes()[:100])


def spoil_empty(root: Path) -> None:
    (root / "clip" / "v0.npz").write_bytes(b"")


def spoil_key(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", feats=np.ones((5, 12)))


def spoil_shape(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.ones((5, 4, 3)))


def spoil_nan(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.full((5, 12), np.nan))


def spoil_numbers(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.ones((5, 12), int))


def spoil_length(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.ones((50, 12)))


def spoil_duration(root: Path) -> None:
    for kind, width in (("clip", 12), ("slowfast", 20)):
        np.savez(root / kind / "v0.npz", features=np.ones((50, width)))


def spoil_clips(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.ones((0, 12)))


def spoil_objects(root: Path) -> None:
    np.savez(root / "clip" / "v0.npz", features=np.array([{}]))


def spoil_header(root: Path) -> None:
    header = io.BytesIO()
    claim = {"descr": "|u1", "fortran_order": False, "shape": (10 * 2**30,)}
    np.lib.format.write_array_header_1_0(header, claim)
    (root / "clip" / "v0.npz").write_bytes(header.getvalue() + b"abc")


def spoil_length_in_zip(root: Path) -> None:
    file = root / "clip" / "v0.npz"
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\x01\x02")
    size = content[directory + 24 : directory + 28]
    extra = struct.pack("<HHQ", 1, 8, 10 * 2**30)  # ZIP64's field for it
    name = int.from_bytes(content[directory + 28 : directory + 30], "little")
    assert size != b"\xff" * 4
    content[directory + 24 : directory + 28] = b"\xff" * 4
    content[directory + 30 : directory + 32] = struct.pack("<H", len(extra))
    end = directory + 46 + name
    content[end:end] = extra
    length = int.from_bytes(content[-10:-6], "little") + len(extra)
    content[-10:-6] = length.to_bytes(4, "little")
    file.write_bytes(content)


def spoil_by_a_page(root: Path) -> None:
    (root / "clip" / "v0.npz").write_text("<!DOCTYPE html>\n<html><body>404</body></html>")


def spoil_by_a_pointer(root: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (root / "clip" / "v0.npz").write_text(pointer)


def spoil_encrypted(root: Path) -> None:
    file = root / "clip" / "v0.npz"
    content = bytearray(file.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(signature) + flags] |= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (spoil_corrupt, "cannot be read"),
        (spoil_empty, "is empty; get it again"),
        (spoil_objects, "holds object of shape .*, expected numbers"),
        (spoil_header, r"header says shape \(10737418240,\), 10,737,418,240 bytes; it has 3"),
        (spoil_length_in_zip, "says that .* bytes unpack to 10,737,418,240"),
        (spoil_by_a_page, "is a web page"),
        (spoil_by_a_pointer, "is a Git LFS pointer"),
        (spoil_encrypted, "encrypted, password required"),
        (spoil_key, "has feats, expected features"),
        (spoil_shape, r"shape \(5, 4, 3\), expected \(l d\)"),
        (spoil_nan, "NaN"),
        (spoil_numbers, "holds int64, expected floating point"),
        (spoil_clips, "is empty"),
        (spoil_length, "6 and 50 clips; expected the same clip length"),
        (spoil_duration, "50 clips of 2 s, but the video is annotated as 10 s"),
    ],
)
def test_a_faulty_file_is_one_line_that_names_it(tmp_path, spoil, named):
    options = dataset(tmp_path, "moment_detr")
    spoil(tmp_path)
    with pytest.raises(InputError, match=named) as error:
        opened(options, "moment_detr").source.video("v0")
    assert str(tmp_path / "clip" / "v0.npz") in str(error.value)
    assert "\n" not in str(error.value)


def test_all_bad_files_are_reported_at_once(tmp_path):
    options = dataset(tmp_path, "moment_detr")
    for number in range(12):
        (tmp_path / "clip" / f"v{number}.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"^12 of 48 feature files cannot be used: .*and 2 more$"):
        opened(options, "moment_detr")


def test_a_video_of_another_width_is_named(tmp_path):
    options = dataset(tmp_path, "univtg")
    np.save(tmp_path / "video" / "v3.npy", np.ones((8, 30), np.float32))
    with pytest.raises(InputError, match=r"v3\.npy: video_width 30, the first file has 32"):
        opened(options, "univtg").source.video("v3")


def test_missing_videos_and_queries_are_listed(tmp_path):
    options = dataset(tmp_path, "univtg")
    (tmp_path / "video" / "v3.npy").unlink()
    (tmp_path / "video" / "v9.npy").unlink()
    (tmp_path / "text" / "qid0.npz").unlink()
    with pytest.raises(InputError, match=r"2 of 12 annotated videos \(v3, v9\) and 1 of 24"):
        opened(options, "univtg")


def test_the_rest_is_taken_where_allowed(tmp_path, caplog):
    options = dataset(tmp_path, "univtg")
    (tmp_path / "video" / "v3.npy").unlink()
    (tmp_path / "text" / "qid0.npz").unlink()
    data = opened(options, "univtg", "--data.allow_missing", "true")
    assert {split: len(data.dataset(split)) for split in data.splits} == {"train": 13, "val": 8}
    assert "v3" in caplog.text


@pytest.mark.parametrize("packed", [False, True])
def test_queries_for_what_the_features_lack_are_not_learnt(tmp_path, caplog, packed):
    options = dataset(tmp_path, "univtg")
    file = tmp_path / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[5]["relevant_windows"] = [[12, 14]]  # of v2, which is annotated as 14 s
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    np.save(tmp_path / "video" / "v2.npy", np.ones((4, 32), np.float32))
    if packed:
        assert convert([*options, *training_options("univtg"), "--config", "demo"]) == 0
    queries = opened(options, "univtg").dataset("train").annotations
    assert [a.qid for a in queries] == [qid for qid in range(16) if qid != 5]
    assert "1 of 16 queries of train ask for moments behind the end" in caplog.text


def test_no_features_at_all_names_what_files_are_called(tmp_path):
    options = dataset(tmp_path, "univtg")
    with pytest.raises(InputError, match=r"expected files called ID\.npz"):
        opened(options, "univtg", "--data.features", "moment_detr")


def test_a_missing_folder_is_named(tmp_path):
    options = dataset(tmp_path, "univtg")
    with pytest.raises(InputError, match=r"i3d: no such folder"):
        opened(options, "univtg", "--data.video_features", '["i3d"]')


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_unlabelled_query_cannot_be_trained_or_validated_on(tmp_path, split):
    options = dataset(tmp_path, "univtg")
    file = tmp_path / f"{split}.jsonl"
    [first, *rest] = file.read_text().splitlines()
    unlabelled = {k: v for k, v in json.loads(first).items() if k != "relevant_windows"}
    file.write_text("\n".join([json.dumps(unlabelled), *rest]))
    with pytest.raises(InputError, match=rf"{split}\.jsonl: 1 queries have no relevant_windows"):
        opened(options, "univtg")


def test_a_dataset_without_root_is_reported():
    with pytest.raises(InputError, match=r"--data\.root"):
        open_data(load_config("demo", ["--data.dataset", "custom"]))
