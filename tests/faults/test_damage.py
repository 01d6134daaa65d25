"""The fast part of the campaign of damage."""

from __future__ import annotations

import pytest

from tests.faults.damage import CASES, try_case


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("store")])
def test_damage_of_any_file_of_a_store_is_noticed(name: str) -> None:
    ends, unnoticed = try_case(name, tries=3)
    assert not unnoticed
    assert ends["refused"]


def test_damage_of_any_file_of_an_index_is_noticed() -> None:
    pytest.importorskip("lancedb", reason="an index needs the extra `index`")
    ends, unnoticed = try_case("index", tries=2)
    assert not unnoticed
    assert ends["refused"]


def test_damage_of_any_file_of_a_run_is_noticed() -> None:
    ends, unnoticed = try_case("run folder", tries=1)
    assert not unnoticed
    assert ends["refused"]
