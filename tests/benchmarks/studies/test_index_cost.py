"""The model of cost follows from the index's own settings, and gives what a real index takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.studies.clip_index import made_up_videos, write_made_up
from benchmarks.studies.index_cost import Rates, cost, table
from sdst.grounding.cache import folder_size
from sdst.indexing import clip_index
from sdst.indexing.build import update_index


@pytest.mark.parametrize("trained", [False, True])
def test_the_disk_is_that_of_a_real_index(tmp_path: Path, monkeypatch, trained: bool) -> None:
    pytest.importorskip("lancedb", reason="an index needs the extra `index`")
    monkeypatch.setattr(clip_index, "TRAINED_FROM", 1 if trained else 10**9)
    store = write_made_up(tmp_path / "store", clips=4000, width=64)
    update_index(tmp_path / "index", store, progress=False)
    assert folder_size(tmp_path / "index") == pytest.approx(cost(4000, 64).disk, rel=0.25)


def test_a_query_reads_by_the_root_of_the_clips() -> None:
    million, billion = cost(10**6, 512), cost(10**9, 512)
    assert billion.read / million.read < 1000**0.5
    assert billion.disk / million.disk == pytest.approx(1000, rel=0.01)
    # Of a million: 1,000 centers, 32,000 codes, and 4,096 vectors.
    expected = 4 * 512 * 1000 + 32 * 1000 * 520 + 4 * 512 * 4096
    assert million.read == pytest.approx(expected, rel=1e-3)


def test_faster_cores_and_fewer_candidates_cost_less() -> None:
    slow, fast = (cost(10**8, 512, rates=Rates(scan=rate)) for rate in (1e9, 4e9))
    assert slow.nearest == pytest.approx(4 * fast.nearest)
    assert cost(10**8, 512, candidates=8).look == cost(10**8, 512, candidates=32).look / 4


def test_the_table_has_a_line_for_every_size() -> None:
    lines = table([10**6, 10**9], 512, cores=2).splitlines()
    assert len(lines) == 4 and lines[-1].startswith("| 1,000,000,000 | 31,622 |")


def test_made_up_videos_are_unit_vectors_of_as_many_clips_as_asked() -> None:
    videos = list(made_up_videos(500, 16))
    assert sum(map(len, videos)) == 500
    assert all(abs((video**2).sum(1) - 1).max() < 1e-5 for video in videos)
