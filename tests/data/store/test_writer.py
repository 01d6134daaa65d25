"""The writer resumes after a kill, and lets a finished store grow without touching its content."""

from __future__ import annotations

import json
import os
import stat
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter, NotWritable
from sdst.errors import InputError
from tests.features import META, K, text_features, video_features


def interrupted(path: Path, *videos: str, dtype: str = "float16") -> None:
    """Leave what a killed writer leaves behind `videos`."""
    with (
        pytest.raises(KeyboardInterrupt),
        FeatureWriter(path, META, dtype, resume=True) as writer,
    ):
        for vid in videos:
            writer.add_video(vid, 4.0, *video_features(2, ord(vid)))
        writer.add_query(7, *text_features(4, 2))
        raise KeyboardInterrupt


def finished(path: Path, *videos: str, dtype: str = "float16") -> dict[str, bytes]:
    """Resume to the end; the content of the store."""
    with FeatureWriter(path, META, dtype, resume=True) as writer:
        for vid in videos:
            writer.add_video(vid, 4.0, *video_features(2, ord(vid)))
    FeatureStore(path).verify(progress=False)
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_an_interrupted_store_is_resumed(tmp_path):
    interrupted(tmp_path / "store", "a", "b")
    with FeatureWriter(tmp_path / "store", META, resume=True) as writer:
        assert writer.video_ids == ["a", "b"] and writer.query_ids == [7]
        writer.add_video("c", 4.0, *video_features(2, ord("c")))
    assert FeatureStore(tmp_path / "store").video_ids == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


@pytest.mark.parametrize(
    ("torn", "dtype"),
    [
        ("journal.jsonl", "float16"),
        ("video_tokens.bin", "float16"),
        ("query_embeddings.bin", "float16"),
        ("journal.jsonl", "int8"),
        ("video_scales.bin", "int8"),
    ],
)
def test_half_an_entry_is_written_again(tmp_path, torn, dtype):
    for name in ("whole", "torn"):
        interrupted(tmp_path / name, "a", "b", dtype=dtype)
    file = tmp_path / ".torn.partial" / torn
    if torn == "journal.jsonl":
        file.write_bytes(file.read_bytes()[:-5])  # killed within the last line
    else:
        with file.open("ab") as more:  # killed between the features and their line
            more.write(b"half")
    with FeatureWriter(tmp_path / "torn", META, dtype, resume=True) as writer:
        for qid in {7} - set(writer.query_ids):
            writer.add_query(qid, *text_features(4, 2))
    assert {f.name: f.read_bytes() for f in (tmp_path / "torn").iterdir()} == finished(
        tmp_path / "whole", dtype=dtype
    )


def test_features_that_never_reached_the_disk_are_written_again(tmp_path):
    interrupted(tmp_path / "store", "a", "b")
    file = tmp_path / ".store.partial" / "video_tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with FeatureWriter(tmp_path / "store", META, resume=True) as writer:
        assert writer.video_ids == ["a"] and writer.query_ids == []


def test_an_unfinished_store_of_other_settings_is_reported(tmp_path):
    interrupted(tmp_path / "store", "a")
    with (
        pytest.raises(
            InputError, match="unfinished store, made with dtype 'float16', expected 'float32'"
        ),
        FeatureWriter(tmp_path / "store", META, "float32", resume=True),
    ):
        pass


def test_two_processes_do_not_write_one_resumable_store(tmp_path):
    with (
        FeatureWriter(tmp_path / "store", META, resume=True),
        pytest.raises(InputError, match="another process is writing"),
        FeatureWriter(tmp_path / "store", META, resume=True),
    ):
        pass


def grow(path: Path, *videos: str, dtype: str = "float16") -> None:
    """Add videos of two clips to a store that may be there."""
    with FeatureWriter(path, META, dtype, resume=True) as writer:
        for vid in videos:
            writer.add_video(vid, 4.0, *video_features(2, ord(vid)))


def assert_same_answers(one: FeatureStore, other: FeatureStore) -> None:
    assert set(one.video_ids) == set(other.video_ids)
    assert set(one.query_ids) == set(other.query_ids)
    for vid in one:
        assert one.video(vid).duration == other.video(vid).duration
        np.testing.assert_array_equal(one.video(vid).tokens, other.video(vid).tokens)
        np.testing.assert_array_equal(one.video(vid).embedding, other.video(vid).embedding)
        if one.dtype == "int8":
            np.testing.assert_array_equal(one.video(vid).scales, other.video(vid).scales)
    for qid in one.query_ids:
        np.testing.assert_array_equal(one.query(qid).tokens, other.query(qid).tokens)
        np.testing.assert_array_equal(one.query(qid).embedding, other.query(qid).embedding)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_finished_store_grows_to_the_one_made_in_one_go(tmp_path, dtype):
    grow(tmp_path / "store", "a", "b", dtype=dtype)
    grow(tmp_path / "store", "c", dtype=dtype)
    grow(tmp_path / "whole", "a", "b", "c", dtype=dtype)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "store" / file.name).read_bytes() == file.read_bytes(), file.name
    FeatureStore(tmp_path / "store").verify(progress=False)


def test_who_reads_a_store_is_left_alone_when_it_grows(store):
    tokens, query = store.video("b").tokens, store.query(7).tokens
    before = tokens.copy(), query.copy()
    grow(store.path, "c", "d")
    np.testing.assert_array_equal(tokens, before[0])
    np.testing.assert_array_equal(query, before[1])
    assert store.video_ids == ["a", "b"]
    assert FeatureStore(store.path).video_ids == ["a", "b", "c", "d"]


def test_a_store_that_is_growing_is_read_as_it_was(store):
    with FeatureWriter(store.path, META, resume=True) as writer:
        writer.add_video("c", 4.0, *video_features(2))
        meanwhile = FeatureStore(store.path)
        assert_same_answers(store, meanwhile)
        meanwhile.verify(progress=False)


def interrupted_growth(path: Path, *videos: str) -> None:
    with pytest.raises(KeyboardInterrupt), FeatureWriter(path, META, resume=True) as writer:
        for vid in videos:
            writer.add_video(vid, 4.0, *video_features(2, ord(vid)))
        raise KeyboardInterrupt


def test_a_growth_that_was_stopped_leaves_the_old_store_and_is_resumed(tmp_path, store):
    interrupted_growth(store.path, "c")
    with (store.path / "video_tokens.bin").open("ab") as more:
        more.write(b"half a video")
    assert_same_answers(store, FeatureStore(store.path))
    with FeatureWriter(store.path, META, resume=True) as writer:
        assert writer.video_ids == ["a", "b", "c"]
        writer.add_video("d", 4.0, *video_features(2, ord("d")))
    grown = FeatureStore(store.path)
    np.testing.assert_array_equal(
        grown.video("d").tokens, video_features(2, ord("d"))[0].astype(np.float16)
    )
    grown.verify(progress=False)
    assert grown.nbytes == sum(f.stat().st_size for f in store.path.glob("*.bin"))
    assert not (store.path / "journal.jsonl").exists()


def test_a_journal_that_the_index_has_overtaken_is_not_read_again(store):
    interrupted_growth(store.path, "c")
    overtaken = (store.path / "journal.jsonl").read_bytes()
    grow(store.path)
    (store.path / "journal.jsonl").write_bytes(overtaken)  # killed before it was removed
    grow(store.path, "d")
    grown = FeatureStore(store.path)
    assert grown.video_ids == ["a", "b", "c", "d"]
    grown.verify(progress=False)


def test_nothing_new_leaves_the_store_as_it_is(store):
    files = sorted(store.path.iterdir())
    before = [file.stat().st_mtime_ns for file in files if file.name == "index.json"]
    grow(store.path)
    assert sorted(store.path.iterdir()) == files
    assert [file.stat().st_mtime_ns for file in files if file.name == "index.json"] == before


@pytest.mark.parametrize(
    ("meta", "dtype", "message"),
    [
        (
            {**META, "clip_length": 1.0},
            "float16",
            r"clip_length 2\.0, expected 1\.0; continue with",
        ),
        ({**META, "fingerprint": "f01"}, "float16", "fingerprint 'f00', expected 'f01'"),
        (META, "int8", "dtype 'float16', expected 'int8'"),
    ],
)
def test_a_store_of_other_settings_does_not_grow(store, meta, dtype, message):
    files = sorted(store.path.iterdir())
    with pytest.raises(InputError, match=message):
        FeatureWriter(store.path, meta, dtype, resume=True)
    assert sorted(store.path.iterdir()) == files


def test_features_of_another_shape_do_not_go_into_a_finished_store(store):
    tokens, embedding = video_features(2)
    with (
        pytest.raises(InputError, match=f"video c has layers {K - 1}, those before it {K}"),
        FeatureWriter(store.path, META, resume=True) as writer,
    ):
        writer.add_video("c", 4.0, tokens[1:], embedding)


def test_a_damaged_store_does_not_grow(store):
    file = store.path / "video_tokens.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(InputError, match="the index says"):
        grow(store.path, "c")


def test_a_folder_that_is_no_store_is_left_alone(tmp_path):
    with pytest.raises(InputError, match="exists and is no feature store"):
        FeatureWriter(tmp_path, META, resume=True)


def test_two_processes_do_not_grow_one_store(store):
    with (
        FeatureWriter(store.path, META, resume=True),
        pytest.raises(NotWritable, match="another process is writing"),
        FeatureWriter(store.path, META, resume=True),
    ):
        pass


def test_an_entry_of_another_origin_takes_the_place_of_the_one_before(tmp_path):
    path = tmp_path / "store"
    for seed in (1, 2):
        with FeatureWriter(path, META, resume=True) as writer:
            video = writer.begin_video("a", clips=2 + seed, origin=seed)
            video.write(*video_features(2 + seed, seed))
            video.finish(4.0 + seed, ["cut"] if seed == 1 else [])
            writer.add_query(7, *text_features(3 + seed, seed), origin=seed)
            writer.add_query(f"only {seed}", *text_features(2, 9))
    store = FeatureStore(path)
    assert store.video_ids == ["a"] and store.query_ids == [7, "only 1", "only 2"]
    assert store.video_origins == {"a": 2} and store.query_origins[7] == 2
    assert store.video("a").duration == 6.0 and store.faults == {}
    np.testing.assert_array_equal(
        store.video("a").tokens, video_features(4, 2)[0].astype(np.float16)
    )
    np.testing.assert_array_equal(store.query(7).tokens, text_features(5, 2)[0].astype(np.float16))
    store.verify(progress=False)


@pytest.mark.parametrize("origin", [None, 1])
def test_an_entry_of_the_same_origin_is_given_twice(tmp_path, origin):
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_query(7, *text_features(3), origin=1)
        with pytest.raises(InputError, match="query 7 is given twice"):
            writer.add_query(7, *text_features(3), origin=origin)


def test_a_store_that_does_not_name_its_origins_is_read_and_grows(store):
    file = store.path / "index.json"
    index = json.loads(file.read_text())
    del index["origins"], index["faults"], index["checksum"]
    file.write_text(json.dumps(index))
    assert_same_answers(store, FeatureStore(store.path))
    grow(store.path, "c")
    grown = FeatureStore(store.path)
    assert grown.video_origins == {"a": None, "b": None, "c": None}
    grown.verify(progress=False)


def test_bytes_of_files_as_indexes_had_them_once_are_no_origins(store):
    file = store.path / "index.json"
    index = json.loads(file.read_text())
    del index["checksum"]
    index["origins"] = {"videos": [1234, 5678], "queries": index["origins"]["queries"]}
    file.write_text(json.dumps(index))
    found = FeatureStore(store.path)
    assert found.video_origins == {"a": None, "b": None}
    assert found.query_origins == store.query_origins


def test_a_journal_that_does_not_name_origins_is_resumed(tmp_path):
    interrupted(tmp_path / "store", "a")
    file = tmp_path / ".store.partial" / "journal.jsonl"
    header, video, query = map(json.loads, file.read_text().splitlines())
    lines = header, [*video[:-3], ["a fault"]], query[:-3]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    grow(tmp_path / "store")
    store = FeatureStore(tmp_path / "store")
    assert store.faults == {"a": ["a fault"]} and store.query_origins == {7: None}
    store.verify(progress=False)


def test_a_writer_stopped_while_it_publishes_is_resumed(tmp_path, monkeypatch):
    def stop(*_) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", stop)
        grow(tmp_path / "store", "a", "b")
    grow(tmp_path / "store")
    assert FeatureStore(tmp_path / "store").video_ids == ["a", "b"]


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("pieces", [[7], [3, 4], [1, 1, 1, 1, 1, 1, 1]])
def test_a_video_written_in_pieces_is_that_written_at_once(tmp_path, pieces, dtype):
    """Room for more clips than come, as of a truncated file, leaves no gap."""
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((3, 7, 2, 5)).astype(np.float16)
    embedding = rng.standard_normal((7, 4)).astype(np.float16)
    for name, write_first in (("whole", False), ("pieces", True)):
        with FeatureWriter(tmp_path / name, {}, dtype) as writer:
            writer.add_video("before", 2.0, tokens[:, :1], embedding[:1])
            if write_first:
                video = writer.begin_video("v", clips=10)
                for begin, end in pairwise((0, *np.cumsum(pieces))):
                    video.write(tokens[:, begin:end], embedding[begin:end])
                video.finish(14.0)
            else:
                writer.add_video("v", 14.0, tokens, embedding)
            writer.add_video("after", 2.0, tokens[:, :1], embedding[:1])
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "pieces" / file.name).read_bytes() == file.read_bytes()
    FeatureStore(tmp_path / "pieces").verify(progress=False)


def test_an_abandoned_video_leaves_nothing(tmp_path):
    tokens = np.ones((2, 3, 1, 4), np.float16)
    with FeatureWriter(tmp_path / "store", {}) as writer:
        video = writer.begin_video("bad", clips=5)
        video.write(tokens)
        video.abandon()
        writer.add_video("good", 3.0, tokens)
    store = FeatureStore(tmp_path / "store")
    assert store.video_ids == ["good"]
    np.testing.assert_array_equal(store.video("good").tokens, tokens)
    store.verify(progress=False)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
@pytest.mark.parametrize("begun", [1, 3, 9])
def test_a_video_may_be_longer_than_it_was_begun(tmp_path, begun, dtype):
    tokens, embedding = video_features(10, 5)
    for name, room in (("grown", begun), ("known", 10)):
        with FeatureWriter(tmp_path / name, META, dtype) as writer:
            writer.add_video("before", 4.0, *video_features(2, 1))
            video = writer.begin_video("v", clips=room)
            for first in range(0, 10, 2):
                video.write(tokens[:, first : first + 2], embedding[first : first + 2])
            video.finish(20.0)
    stores = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("grown", "known")
    ]
    assert stores[0] == stores[1]


def test_pages_that_the_power_cut_off_are_written_again(tmp_path):
    """The journal has all entries, but pages of the second video never reached the disk."""
    interrupted(tmp_path / "store", "a", "b")
    file = tmp_path / ".store.partial" / "video_tokens.bin"
    content = bytearray(file.read_bytes())
    content[-64:] = bytes(64)
    file.write_bytes(content)
    with FeatureWriter(tmp_path / "store", META, resume=True) as writer:
        assert writer.video_ids == ["a"]


def test_a_damaged_line_of_the_journal_ends_what_is_taken_up(tmp_path):
    interrupted(tmp_path / "store", "a", "b")
    file = tmp_path / ".store.partial" / "journal.jsonl"
    *lines, last = file.read_text().splitlines()
    assert last.startswith("[{") and json.loads(last)[2] == 7
    file.write_text("\n".join([*lines, last.replace('"query", 7,', '"query", 8,')]) + "\n")
    with FeatureWriter(tmp_path / "store", META, resume=True) as writer:
        assert writer.video_ids == ["a", "b"] and writer.query_ids == []


def test_a_store_with_damaged_features_does_not_grow(store):
    file = store.path / "video_tokens.bin"
    content = bytearray(file.read_bytes())
    content[:8] = bytes(8)
    file.write_bytes(content)
    before = {path: path.read_bytes() for path in store.path.iterdir()}
    with pytest.raises(InputError, match="1 entries are not what was written"):
        grow(store.path, "c")
    assert {path: before.get(path) for path in store.path.glob("*.bin")} == {
        path: path.read_bytes() for path in store.path.glob("*.bin")
    }


def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    left, foreign = tmp_path / ".store-0a1b2c3d", tmp_path / ".store-notes"
    for folder in (left, foreign):
        folder.mkdir()
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 2.0, *video_features(1))
    assert not left.exists() and foreign.exists()


def test_what_another_writer_is_writing_stays(tmp_path):
    with (
        FeatureWriter(tmp_path / "store", META) as first,
        FeatureWriter(tmp_path / "store", META) as second,
    ):
        for writer in (first, second):
            writer.add_video("a", 2.0, *video_features(1))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_store_has_the_permissions_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        with FeatureWriter(tmp_path / "store", META) as writer:
            writer.add_video("a", 2.0, *video_features(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o750
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "store").iterdir()} == {0o640}
