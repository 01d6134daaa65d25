"""An index names the videos that may hold what a sentence describes, and keeps up with a store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sdst.data.store.reader import FeatureStore
from sdst.errors import InputError
from tests.indexing.shelf import META, WIDTH, topic, write_store

pytest.importorskip("lancedb", reason="an index needs the extra `index`")

from sdst.indexing import clip_index
from sdst.indexing.build import exclusive, remove_videos, update_index
from sdst.indexing.clip_index import ClipIndex, ClipTable

VIDEOS = {"park": 5, "lake": 7, "it's": 3, "city": 4}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return write_store(tmp_path / "store", VIDEOS)


def update(path: Path, store: FeatureStore, *arguments, **options):
    return update_index(path, store, *arguments, progress=False, **options)


def content(path: Path) -> list[tuple]:
    """All rows of an index, in an order of their own."""
    rows = ClipTable.open(path)._table.to_arrow().to_pylist()
    return sorted(tuple(map(str, row.values())) for row in rows)


def test_the_videos_nearest_to_a_sentence_are_its_candidates(store, tmp_path) -> None:
    changes = update(tmp_path / "index", store)
    assert (changes.added, changes.unchanged) == (4, 0)
    index = ClipIndex(tmp_path / "index", store, videos=2)
    for vid in VIDEOS:
        found = index.candidates(topic(vid))
        assert found[0] == vid and len(found) == 2
    assert len(ClipIndex(tmp_path / "index", store, videos=99).candidates(topic("park"))) == 4


def test_candidates_are_found_behind_a_long_video(tmp_path) -> None:
    store = write_store(tmp_path / "store", {"long": 300, "short": 2})
    update(tmp_path / "index", store)
    assert ClipIndex(tmp_path / "index", store, videos=2).candidates(topic("long")) == [
        "long",
        "short",
    ]


def test_only_what_is_new_or_changed_is_indexed(store, tmp_path, monkeypatch) -> None:
    update(tmp_path / "index", store)
    read = []
    video = FeatureStore.video
    monkeypatch.setattr(
        FeatureStore, "video", lambda self, vid: (read.append(vid), video(self, vid))[1]
    )
    assert update(tmp_path / "index", store).unchanged == 4 and not read
    write_store(tmp_path / "store", {"park": 6}, seed=1)
    store = write_store(tmp_path / "store", {"new": 2})
    changes = update(tmp_path / "index", store)
    assert (changes.added, changes.replaced, changes.unchanged) == (1, 1, 3)
    assert sorted(read) == ["new", "park"]
    update(tmp_path / "anew", store)
    assert content(tmp_path / "index") == content(tmp_path / "anew")


def test_an_open_index_finds_what_came_later(store, tmp_path, monkeypatch) -> None:
    update(tmp_path / "index", store)
    monkeypatch.setattr(clip_index, "FRESH", clip_index.timedelta(0))
    index = ClipIndex(tmp_path / "index", store, videos=1)
    update(tmp_path / "index", write_store(tmp_path / "store", {"new": 2}))
    assert index.candidates(topic("new")) == ["new"]


def test_removed_videos_are_not_found(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    assert remove_videos(tmp_path / "index", ["it's", "it's"]) == 1
    index = ClipIndex(tmp_path / "index", store)
    assert set(index.candidates(topic("it's"))) == {"park", "lake", "city"}
    with pytest.raises(InputError, match=r"--remove it's: no such video in .*, which has 3"):
        remove_videos(tmp_path / "index", ["park", "it's"])
    assert set(ClipTable.open(tmp_path / "index").videos()) == {"park", "lake", "city"}


def test_videos_that_a_store_has_no_more_are_removed(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    smaller = write_store(tmp_path / "smaller", {"park": 5})
    changes = update(tmp_path / "index", smaller)
    assert (changes.removed, changes.unchanged) == (3, 1)
    some = update(tmp_path / "index", store, ["lake"])
    assert (some.added, some.removed) == (1, 0)


def test_fields_narrow_a_search_and_may_come_later(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    metadata = {
        "park.mp4": {"year": 2020, "place": "a 'park'"},
        "lake": {"year": 2021.5, "open": True},
        "sea": {"year": 1},
    }
    changes = update(tmp_path / "index", store, metadata=metadata)
    assert (changes.replaced, changes.unchanged, changes.unknown) == (2, 2, ("sea",))
    assert update(tmp_path / "index", store, metadata=metadata).unchanged == 4
    assert update(tmp_path / "index", store).unchanged == 4, "fields were forgotten"

    def found(where: str) -> set[str]:
        return set(ClipIndex(tmp_path / "index", store, where=where).candidates(topic("city")))

    assert found("year >= 2020") == {"park", "lake"}
    assert found("place = 'a ''park'''") == {"park"}
    assert found("open") == {"lake"}
    assert found("year IS NULL") == {"it's", "city"}
    assert found("year > 3000") == set()
    write_store(tmp_path / "store", {"park": 6}, seed=1)
    update(tmp_path / "index", FeatureStore(tmp_path / "store"))
    assert found("year = 2020") == {"park"}, "a changed video lost its fields"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("years > 2", r"--where 'years > 2': No field named years.*on year$"),
        ("year >> '", r"--where .*Unterminated string literal.*; expected SQL such as"),
        ("year = 'a'", r"--where .*could not convert to literal of type 'Float64'; expected"),
        ("year", r"--where 'year': .*; expected SQL"),
        ("", r"--where '': .*; expected SQL"),
    ],
)
def test_a_condition_that_is_none_is_refused(store, tmp_path, where: str, message: str) -> None:
    update(tmp_path / "index", store, metadata={"park": {"year": 1}})
    with pytest.raises(InputError, match=message) as caught:
        ClipIndex(tmp_path / "index", store, where=where).candidates(topic("park"))
    assert "\n" not in str(caught.value) and "cargo" not in str(caught.value)


def test_a_field_of_another_type_is_refused(store, tmp_path) -> None:
    update(tmp_path / "index", store, metadata={"park": {"year": 1}})
    with pytest.raises(InputError, match=r"field year is number, in the metadata it is text"):
        update(tmp_path / "index", store, metadata={"lake": {"year": "old"}})


def test_an_index_of_other_features_is_refused(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    other = write_store(tmp_path / "other", {"park": 2}, {**META, "fingerprint": "g-k2"})
    for use in (update, ClipIndex):
        with pytest.raises(InputError, match=r"fingerprint f, expected g"):
            use(tmp_path / "index", other)
    deeper = write_store(tmp_path / "deeper", {"park": 2}, {**META, "fingerprint": "f-k9"})
    assert ClipIndex(tmp_path / "index", deeper, videos=1).candidates(topic("park")) == ["park"]


def test_what_is_missing_is_named(store, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"none: no index there; make one with sdst"):
        ClipIndex(tmp_path / "none", store)
    assert not (tmp_path / "none").exists()
    update(tmp_path / "index", store)
    with pytest.raises(InputError, match="has no features of its own; give --store DIR"):
        ClipIndex(tmp_path / "index")
    with pytest.raises(InputError, match="--candidates 0"):
        ClipIndex(tmp_path / "index", store, videos=0)
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(InputError, match=r"not installed; pip install 'sdst\[index\]'"):
        ClipIndex(tmp_path / "index", store)


def test_features_without_embeddings_are_refused(tmp_path) -> None:
    from sdst.data.store.writer import FeatureWriter

    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 1.0, np.zeros((2, 1, 1, 4)))
    with pytest.raises(InputError, match="no embeddings in a space shared with sentences"):
        update(tmp_path / "index", FeatureStore(tmp_path / "store"))


def test_one_process_at_a_time_changes_an_index(store, tmp_path) -> None:
    with exclusive(tmp_path / "index"), pytest.raises(InputError, match="another process is"):
        update(tmp_path / "index", store)


def test_many_clips_are_searched_by_partitions_as_well_as_one_by_one(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(clip_index, "TRAINED_FROM", 1000)
    monkeypatch.setattr(clip_index, "PROBED", 4)
    store = write_store(tmp_path / "store", {f"v{i}": 20 for i in range(100)})
    update(tmp_path / "index", store)
    table = ClipTable.open(tmp_path / "index")
    [trained] = table._table.list_indices()
    assert trained.num_indexed_rows == 2000
    index = ClipIndex(tmp_path / "index", store, videos=1)
    assert [index.candidates(topic(f"v{i}")) for i in range(0, 100, 9)] == [
        [f"v{i}"] for i in range(0, 100, 9)
    ]
    store = write_store(tmp_path / "store", {"later": 3})
    update(tmp_path / "index", store)
    [trained] = ClipTable.open(tmp_path / "index")._table.list_indices()
    assert trained.num_indexed_rows == 2003, "what came later is not in the index"
    # A condition that hardly any clip meets is no reason to find nothing.
    update(tmp_path / "index", store, metadata={"v7": {"rare": True}})
    rare = ClipIndex(tmp_path / "index", store, where="rare")
    assert rare.candidates(topic("v90")) == ["v7"]


KILLED = """
import os, sys
from pathlib import Path
from sdst.data.store.reader import FeatureStore
from sdst.indexing import build
from sdst.indexing.build import update_index
from sdst.indexing.clip_index import ClipTable

build.CLIPS_AT_ONCE = 1  # a commit for every video
path, name = Path(sys.argv[1]), sys.argv[2]
act, left = getattr(ClipTable, name), [int(sys.argv[3])]
def act_and_die(self, *arguments):
    act(self, *arguments)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), 9)
setattr(ClipTable, name, act_and_die)
update_index(path / "index", FeatureStore(path / "store"), progress=False)
"""


@pytest.mark.parametrize(("name", "calls"), [("remove", 1), ("add", 2)])
def test_a_killed_update_is_completed_by_the_next(tmp_path, name: str, calls: int) -> None:
    update(tmp_path / "index", write_store(tmp_path / "store", VIDEOS))
    write_store(tmp_path / "store", {"park": 6, "city": 4}, seed=1)
    store = write_store(tmp_path / "store", {"new": 2, "other": 3})
    command = [sys.executable, "-c", KILLED, str(tmp_path), name, str(calls)]
    assert subprocess.run(command, check=False).returncode == -9
    between = ClipTable.open(tmp_path / "index")
    clips = {vid: store.extent(vid)[0] for vid in between.videos()}
    assert len(between) == sum(clips.values()), "half a video is in the index"
    assert len(clips) == 2 + (name == "add") * 2
    update(tmp_path / "index", store)
    update(tmp_path / "anew", store)
    assert content(tmp_path / "index") == content(tmp_path / "anew")


def test_vectors_are_those_of_the_store(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    rows = ClipTable.open(tmp_path / "index")._table.to_arrow().to_pylist()
    for vid, clips in VIDEOS.items():
        of_video = sorted((row for row in rows if row["vid"] == vid), key=lambda row: row["clip"])
        found = np.array([row["vector"] for row in of_video])
        assert found.shape == (clips, WIDTH)
        np.testing.assert_array_equal(found, np.asarray(store.video(vid).embedding, np.float32))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-9])


def claim(file: Path) -> None:
    """Say that a manifest is elsewhere in its file, on which LanceDB panics."""
    content = file.read_bytes()
    file.write_bytes(content[:-16] + (2**40).to_bytes(8, "little") + content[-8:])


@pytest.mark.parametrize(
    ("files", "damage"),
    [
        ("data/*", cut),
        ("data/*", Path.unlink),
        ("_versions/*.manifest", cut),
        ("_versions/*.manifest", claim),
    ],
)
@pytest.mark.parametrize("with_checksums", [True, False])
def test_a_damaged_index_is_one_line(store, tmp_path, files, damage, with_checksums) -> None:
    path = tmp_path / "index"
    update(path, store)
    if not with_checksums:
        (path / "checksums.json").unlink()
    for file in (path / "clips.lance").glob(files):
        damage(file)
    for use in (
        lambda: ClipIndex(path, store).candidates(topic("park")),
        lambda: ClipIndex(path, store, where="vid = 'park'").candidates(topic("park")),
        lambda: remove_videos(path, ["park"]),
        lambda: update(path, write_store(tmp_path / "store", {"park": 6}, seed=1)),
    ):
        with pytest.raises(InputError, match=rf"remove {path}/clips\.lance and run") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_lost_version_is_noticed(store, tmp_path) -> None:
    path = tmp_path / "index"
    update(path, store)
    versions = path / "clips.lance" / "_versions"
    kept = {file: file.read_bytes() for file in versions.iterdir()}
    update(path, write_store(tmp_path / "store", {"new": 2}))
    for file in set(versions.iterdir()) - set(kept):
        file.unlink()
    for file, content in kept.items():
        file.write_bytes(content)
    for use in (ClipTable.open, lambda path: update(path, store)):
        with pytest.raises(InputError, match=r"damaged \(version \d+ is left of \d+\); remove"):
            use(path)


def test_a_removed_table_is_made_anew(store, tmp_path) -> None:
    update(tmp_path / "index", store)
    shutil.rmtree(tmp_path / "index" / "clips.lance")
    assert update(tmp_path / "index", store).added == 4
    assert len(ClipTable.open(tmp_path / "index")) == sum(VIDEOS.values())


@pytest.mark.parametrize(
    "vid",
    ["caf\udce9", "\ud83d", "a\0b", "\0", "", "a\nb", "%'--\u2028", "v" * 999],
    ids=ascii,
)
def test_any_name_of_a_file_is_an_id(tmp_path, vid: str) -> None:
    store = write_store(tmp_path / "store", {vid: 3, "park": 2})
    path = tmp_path / "index"
    assert update(path, store).added == 2
    assert update(path, store).unchanged == 2
    assert ClipIndex(path, store, videos=1).candidates(topic(vid)) == [vid]
    assert remove_videos(path, [vid]) == 1
    assert ClipTable.open(path).videos().keys() == {"park"}
