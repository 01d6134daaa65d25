"""Values that threads share are made once, and the oldest finished ones go."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from sdst.grounding.recent import Recent


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch):
    """Threads take turns after every few instructions."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_the_values_used_last_are_kept():
    recent: Recent[int, int] = Recent(2)
    made: list[int] = []
    for key in (1, 2, 1, 3, 1, 2):
        recent.get(key, lambda key=key: made.append(key) or key)
    assert made == [1, 2, 3, 2]
    assert len(recent) == 2


def test_threads_get_their_own_keys_value(hasty):
    recent: Recent[int, int] = Recent(3)
    keys = [i * 7 % 12 for i in range(4000)]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda key: recent.get(key, lambda: 10 * key), keys))
    assert found == [10 * key for key in keys]
    assert len(recent) == 3


def test_a_value_is_made_once_for_all_that_wait_for_it(hasty):
    recent: Recent[str, object] = Recent(1)
    go, made = Event(), Counter()

    def make() -> object:
        made["calls"] += 1
        go.wait(60)
        return object()

    with ThreadPoolExecutor(8) as threads:
        waiting = [threads.submit(recent.get, "a", make) for _ in range(8)]
        recent.get("b", object)  # drops what is finished, not what is being made
        go.set()
        values = {id(future.result()) for future in waiting}
    assert made["calls"] == 1 and len(values) == 1


def test_a_failure_reaches_everyone_and_is_not_kept():
    recent: Recent[str, int] = Recent(1)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert recent.get("a", lambda: 5) == 5
