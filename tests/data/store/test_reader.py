"""The feature store gives back what was written, at once, and never half of it."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sdst.data.store.reader import FeatureStore, require
from sdst.data.store.writer import FeatureWriter
from sdst.errors import InputError
from tests.features import DT, DV, META, K, P, text_features, video_features


def test_videos_come_back(store):
    tokens, embedding = video_features(1, 3)
    found = store.video("b")
    np.testing.assert_array_equal(found.tokens, tokens.astype(np.float16))
    np.testing.assert_array_equal(found.embedding, embedding.astype(np.float16))
    assert found.duration == 2.0


def test_queries_come_back_under_ids_of_their_own_type(store):
    tokens, embedding = text_features(4, 2)
    found = store.query(7)
    np.testing.assert_array_equal(found.tokens, tokens.astype(np.float16))
    np.testing.assert_array_equal(found.embedding, embedding.astype(np.float16))
    assert store.query_ids == [7, "seven"]


def test_ids_and_meta_are_listed(store):
    assert store.video_ids == ["a", "b"]
    assert len(store) == 2 and "a" in store and "c" not in store
    assert store.meta == META


def test_views_are_read_only_and_copy_nothing(store):
    tokens = store.video("a").tokens
    assert not tokens.flags.writeable
    assert np.shares_memory(tokens, store.video("a").tokens)


def test_single_precision_is_kept_where_asked_for(tmp_path):
    tokens, embedding = video_features(2)
    with FeatureWriter(tmp_path / "store", META, "float32") as writer:
        writer.add_video("a", 4.0, tokens, embedding)
    found = FeatureStore(tmp_path / "store").video("a")
    np.testing.assert_array_equal(found.tokens, tokens.astype(np.float32))


def test_a_store_of_int8_holds_integers_and_scales(tmp_path):
    tokens, embedding = video_features(2)
    tokens[1, 1, 2] = 0
    with FeatureWriter(tmp_path / "store", META, "int8") as writer:
        writer.add_query(7, *text_features(4, 2))
        writer.add_video("before", 4.0, *video_features(3))
        writer.add_video("a", 4.0, tokens, embedding)
    store = FeatureStore(tmp_path / "store")
    found = store.video("a")
    assert found.tokens.dtype == np.int8 and found.scales.shape == (K, 2, P)
    largest = np.abs(tokens).max(-1, keepdims=True)
    assert (np.abs(found.tokens * found.scales[..., None] - tokens) <= largest / 253).all()
    np.testing.assert_array_equal(found.embedding, embedding.astype(np.float16))
    np.testing.assert_array_equal(store.query(7).tokens, text_features(4, 2)[0].astype(np.float16))
    store.verify(progress=False)
    assert store.nbytes == sum(f.stat().st_size for f in store.path.glob("*.bin"))
    held = FeatureStore(store.path, torch.device("cpu")).video("a")
    np.testing.assert_array_equal(held.scales.numpy(), found.scales)


def test_a_changed_scale_is_found(tmp_path):
    with FeatureWriter(tmp_path / "store", META, "int8") as writer:
        writer.add_video("a", 4.0, *video_features(2))
    file = tmp_path / "store" / "video_scales.bin"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(InputError, match="1 entries"):
        FeatureStore(tmp_path / "store").verify(progress=False)


def test_videos_without_queries_make_a_store(tmp_path):
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 4.0, *video_features(2))
    assert FeatureStore(tmp_path / "store").query_ids == []


def test_a_large_store_opens_about_as_fast_as_its_index_is_parsed(tmp_path):
    store = tmp_path / "store"
    with FeatureWriter(store, META) as writer:
        for i in range(5000):
            writer.add_video(f"v{i}", 4.0, *video_features(2))

    def fastest(action) -> float:
        seconds = []
        for _ in range(5):
            start = time.process_time()
            action()
            seconds.append(time.process_time() - start)
        return min(seconds)

    parsing = fastest(lambda: json.loads((store / "index.json").read_text()))
    assert fastest(lambda: FeatureStore(store)) < 20 * parsing  # 3 on a quiet machine


def test_a_store_travels_to_other_processes_as_its_path(store):
    content = pickle.dumps(store)
    assert len(content) < 500
    np.testing.assert_array_equal(pickle.loads(content).video("a").tokens, store.video("a").tokens)


def test_required_shapes_that_fit_are_accepted(store):
    require(store, layers=K, video_width=DV, text_width=DT)


def test_required_shapes_that_do_not_fit_name_both_numbers(store):
    with pytest.raises(InputError, match=f"layers of the features is {K}, the model expects 5"):
        require(store, layers=5)


def test_nothing_is_there_before_the_end(tmp_path):
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 4.0, *video_features(2))
        assert not (tmp_path / "store").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 4.0, *video_features(2))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_of_two_writers_at_once_the_first_stands(tmp_path):
    with FeatureWriter(tmp_path / "store", META) as slow:
        with FeatureWriter(tmp_path / "store", META) as fast:
            fast.add_video("fast", 4.0, *video_features(2))
        slow.add_video("slow", 4.0, *video_features(2))
    assert FeatureStore(tmp_path / "store").video_ids == ["fast"]
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_an_existing_store_is_not_overwritten(store):
    with pytest.raises(InputError, match="exists already"):
        FeatureWriter(store.path, META)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_what_has_no_integer_is_refused(tmp_path, fault):
    tokens, embedding = video_features(2)
    tokens[1, 1, 0, 0] = fault
    with (
        pytest.raises(InputError, match="video a has video_tokens that are NaN or infinite"),
        FeatureWriter(tmp_path / "store", META, "int8") as writer,
    ):
        writer.add_video("a", 4.0, tokens, embedding)


@pytest.mark.parametrize("fault", [np.nan, np.inf, 1e6])
def test_numbers_that_cannot_be_stored_are_refused(tmp_path, fault):
    tokens, embedding = video_features(2)
    tokens[0, 0, 0, 0] = fault
    with (
        pytest.raises(InputError, match="video a has video_tokens that are NaN or do not fit"),
        FeatureWriter(tmp_path / "store", META) as writer,
    ):
        writer.add_video("a", 4.0, tokens, embedding)


def test_features_of_another_shape_are_refused(tmp_path):
    tokens, embedding = video_features(2)
    with (
        pytest.raises(InputError, match=f"video b has tokens_per_frame {P - 1}, those before"),
        FeatureWriter(tmp_path / "store", META) as writer,
    ):
        writer.add_video("a", 4.0, tokens, embedding)
        writer.add_video("b", 4.0, tokens[:, :, 1:], embedding)


def test_a_video_given_twice_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="given twice"),
        FeatureWriter(tmp_path / "store", META) as writer,
    ):
        for _ in range(2):
            writer.add_video("a", 4.0, *video_features(2))


def test_one_layer_serves_a_model_of_several(tmp_path):
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 4.0, video_features(2)[0][:1])
    require(FeatureStore(tmp_path / "store"), layers=5, video_width=DV)


def test_features_without_embeddings_are_stored_without(tmp_path):
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 4.0, video_features(2)[0])
        writer.add_query(7, text_features(4)[0])
    store = FeatureStore(tmp_path / "store")
    assert store.shapes["embed_width"] == 0
    assert store.video("a").embedding is None and store.query(7).embedding is None


def test_a_store_with_and_without_embeddings_is_refused(tmp_path):
    with (
        pytest.raises(InputError, match="video b has embed_width 0, those before it 4"),
        FeatureWriter(tmp_path / "store", META) as writer,
    ):
        writer.add_video("a", 4.0, *video_features(2))
        writer.add_video("b", 4.0, video_features(2)[0])


def test_an_intact_store_verifies(store):
    store.verify(progress=False)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("video_tokens", "video b"),
        ("video_embeddings", "video b"),
        ("query_tokens", "query seven"),
        ("query_embeddings", "query seven"),
    ],
)
def test_a_changed_byte_is_found_by_its_checksum(store, name, entry):
    file = store.path / f"{name}.bin"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"1 entries .* \(first: {entry}\)"):
        FeatureStore(store.path).verify(progress=False)


def test_on_a_device_the_same_features_are_tensors(store):
    held = FeatureStore(store.path, torch.device("cpu"))
    for found, expected in (
        (held.video("b").tokens, store.video("b").tokens),
        (held.query(7).embedding, store.query(7).embedding),
    ):
        np.testing.assert_array_equal(found.numpy(), expected)


def test_what_is_not_in_the_store_is_named(store):
    with pytest.raises(InputError, match="no features of video c"):
        store.video("c")
    with pytest.raises(InputError, match="no features of query 8"):
        store.query(8)


def test_a_missing_store_is_reported(tmp_path):
    with pytest.raises(InputError, match="no feature store there"):
        FeatureStore(tmp_path / "nowhere")


def test_a_truncated_file_is_reported_with_both_sizes(store):
    file = store.path / "video_tokens.bin"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(InputError, match=f"{size - 2} bytes, the index says {size} bytes"):
        FeatureStore(store.path)


def test_a_lost_file_is_reported(store):
    (store.path / "query_tokens.bin").unlink()
    with pytest.raises(InputError, match=r"query_tokens\.bin: missing"):
        FeatureStore(store.path)


def test_another_version_is_reported(store):
    index = json.loads((store.path / "index.json").read_text())
    del index["checksum"]
    (store.path / "index.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(InputError, match="version 99, expected sdst-features version 2"):
        FeatureStore(store.path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": "sdst-features"}'])
def test_an_index_that_is_none_is_reported(store, content):
    (store.path / "index.json").write_text(content)
    with pytest.raises(InputError, match=r"index\.json: "):
        FeatureStore(store.path)


def test_an_index_that_lost_a_part_is_reported(store):
    index = json.loads((store.path / "index.json").read_text())
    del index["videos"]
    (store.path / "index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="damaged"):
        FeatureStore(store.path)


def damage(file: Path) -> None:
    """Zero the first bytes of a file that are not zero."""
    content = bytearray(file.read_bytes())
    first = next(i for i, byte in enumerate(content) if byte)
    content[first : first + 8] = bytes(8)
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["video_tokens", "video_embeddings"])
def test_a_damaged_video_is_refused_when_it_is_first_read(store, name):
    damage(store.path / f"{name}.bin")
    damaged = FeatureStore(store.path)
    with pytest.raises(InputError, match="features of video a are damaged"):
        damaged.video("a")
    damaged.video("b")


@pytest.mark.parametrize("name", ["query_tokens", "query_embeddings"])
def test_a_damaged_query_is_refused_when_it_is_first_read(store, name):
    damage(store.path / f"{name}.bin")
    damaged = FeatureStore(store.path)
    with pytest.raises(InputError, match="features of query 7 are damaged"):
        damaged.query(7)
    damaged.query("seven")


@pytest.mark.parametrize("name", ["video_tokens", "video_scales"])
def test_damage_of_a_store_of_int8_is_refused(tmp_path, name):
    with FeatureWriter(tmp_path / "store", META, "int8") as writer:
        writer.add_video("a", 2.0, *video_features(3))
    damage(tmp_path / "store" / f"{name}.bin")
    with pytest.raises(InputError, match="features of video a are damaged"):
        FeatureStore(tmp_path / "store").video("a")


def test_a_damaged_store_does_not_go_into_a_devices_memory(store):
    damage(store.path / "query_tokens.bin")
    with pytest.raises(InputError, match="1 entries are not what was written"):
        FeatureStore(store.path, torch.device("cpu"))


def test_the_extent_of_a_video_is_known_without_its_features(store):
    damage(store.path / "video_tokens.bin")
    assert FeatureStore(store.path).extent("a") == (5, 9.5)


def test_an_entry_is_checked_once_for_all_forked_processes(store, monkeypatch):
    reader = FeatureStore(store.path)
    child = os.fork()
    if not child:
        reader.video("a")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    monkeypatch.setattr("sdst.data.store.reader.zlib.crc32", lambda *_: pytest.fail("read again"))
    reader.video("a")


def test_a_number_changed_in_the_index_is_found(store):
    file = store.path / "index.json"
    file.write_text(file.read_text().replace("9.5", "9.6"))
    with pytest.raises(InputError, match=r"index\.json: damaged"):
        FeatureStore(store.path)
