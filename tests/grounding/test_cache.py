"""The cache of encoded videos keeps to its limit, and takes nothing from those who use it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sdst.cache import main
from sdst.errors import InputError
from sdst.grounding.cache import SENTENCE_FILE, entries, hold, limit, open_entry, trim


class User:
    """Holds an entry as long as it lives."""


@pytest.fixture
def cache(own_cache: Path) -> Path:
    """Three entries of 1,000 bytes, used one after the other."""
    for second, name in enumerate(("first", "second", "third")):
        (own_cache / name).mkdir(parents=True)
        (own_cache / name / "video_tokens.bin").write_bytes(bytes(1000))
        os.utime(own_cache / name, (second, second))
    return own_cache


def names(cache: Path) -> list[str]:
    return [entry.path.name for entry in entries(cache)]


def test_what_was_used_longest_ago_goes_first(cache: Path) -> None:
    assert trim(cache, 2500) == 1000
    assert names(cache) == ["second", "third"]


def test_using_an_entry_keeps_it_longer(cache: Path) -> None:
    os.close(open_entry(cache / "first"))
    trim(cache, 2000)
    assert names(cache) == ["third", "first"]


def test_an_entry_in_use_stays_until_its_user_is_gone(cache: Path) -> None:
    user = User()
    hold(user, open_entry(cache / "first"))
    trim(cache, 0)
    assert names(cache) == ["first"]
    del user
    trim(cache, 0)
    assert names(cache) == []


def test_what_killed_processes_left_goes(cache: Path) -> None:
    (cache / ".first-0123abcd").mkdir()
    trim(cache, 1e9)
    assert sorted(os.listdir(cache)) == ["first", "second", "third"]


def test_what_is_no_entry_is_neither_counted_nor_removed(cache: Path, tmp_path: Path) -> None:
    os.mkfifo(cache / "pipe")
    (tmp_path / "precious").mkdir()
    (cache / "link").symlink_to(tmp_path / "precious")
    (cache / "loop").symlink_to("loop")
    assert names(cache) == ["first", "second", "third"]
    assert trim(cache, 0) == 3000
    assert (tmp_path / "precious").is_dir()


def test_the_limit_is_in_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDST_CACHE_GB", "0.5")
    assert limit() == 5e8
    monkeypatch.setenv("SDST_CACHE_GB", "much")
    with pytest.raises(InputError, match="SDST_CACHE_GB 'much': expected gigabytes"):
        limit()


def test_the_command_shows_and_clears_the_cache(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (cache.parent / "demo").mkdir()
    (cache / "fourth").mkdir()
    (cache / "fourth" / SENTENCE_FILE).touch()
    main([])
    assert f"{cache}: 3 encoded videos and 1 sentences" in (shown := capsys.readouterr().out)
    assert f"{cache.parent / 'demo'}: 0.00 GB" in shown
    main(["--clear"])
    assert f"{cache}: 0 encoded videos" in capsys.readouterr().out
    assert (cache.parent / "demo").exists()


def test_an_empty_cache_is_shown(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    assert f"{own_cache}: 0 encoded videos" in capsys.readouterr().out
