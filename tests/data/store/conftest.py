"""Fixtures of the tests of data."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdst.data.store.reader import FeatureStore
from sdst.data.store.writer import FeatureWriter
from tests.features import META, text_features, video_features


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    with FeatureWriter(tmp_path / "store", META) as writer:
        writer.add_video("a", 9.5, *video_features(5, 1))
        writer.add_query(7, *text_features(4, 2))
        writer.add_video("b", 2.0, *video_features(1, 3))
        writer.add_query("seven", *text_features(9, 4))
    return FeatureStore(tmp_path / "store")
