"""Work that threads do ahead: in order, no further than there is room, with its errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sdst.extraction.ahead import Ahead, map_ahead


def until(condition) -> bool:
    """Whether `condition()` comes true before long."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)
    return condition()


class Numbers(Iterator[int]):
    """0, 1, 2, ... up to `count`; knows how many were made, and that one thread makes them."""

    def __init__(self, count: int) -> None:
        self.count, self.made = count, 0
        self._busy = threading.Lock()

    def __next__(self) -> int:
        assert self._busy.acquire(blocking=False), "two threads at once"
        try:
            if self.made == self.count:
                raise StopIteration
            self.made += 1
            return self.made - 1
        finally:
            self._busy.release()


def room_for(count: int):
    return lambda waiting: len(waiting) < count


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.mark.parametrize("room", [1, 3, 1000])
def test_items_come_in_order_and_all_of_them(pool, room) -> None:
    for _ in range(20):
        assert list(Ahead(pool, Numbers(50), room_for(room))) == list(range(50))


def test_no_more_are_made_than_there_is_room_for(pool) -> None:
    numbers = Numbers(100)
    ahead = Ahead(pool, numbers, room_for(3))
    assert until(lambda: numbers.made == 3)
    assert next(ahead) == 0
    assert until(lambda: numbers.made == 4)
    time.sleep(0.02)
    assert numbers.made == 4


def test_the_first_is_there_before_the_second_is_made(pool) -> None:
    taken = threading.Event()

    def items() -> Iterator[str]:
        yield "first"
        assert taken.wait(10)
        yield "second"

    ahead = Ahead(pool, items(), room_for(10))
    assert next(ahead) == "first"
    taken.set()
    assert list(ahead) == ["second"]


def test_one_that_waits_leaves_its_thread_to_others() -> None:
    with ThreadPoolExecutor(1) as pool:
        both = [Ahead(pool, Numbers(9), room_for(2)) for _ in range(2)]
        assert [list(ahead) for ahead in both] == 2 * [list(range(9))]


def test_an_error_comes_after_the_items_before_it_and_stays(pool) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    ahead = Ahead(pool, items(), room_for(10))
    assert next(ahead) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="no more"):
            next(ahead)


def test_an_end_stays_the_end(pool) -> None:
    ahead = Ahead(pool, iter([]), room_for(1))
    assert list(ahead) == list(ahead) == []


def test_a_map_keeps_the_order_and_its_distance(pool) -> None:
    numbers = Numbers(20)
    results = map_ahead(pool, lambda x: x * x, numbers, ahead=3)
    assert next(results) == 0 and numbers.made == 3
    assert list(results) == [x * x for x in range(1, 20)]


def test_an_item_may_be_taken_before_its_thread_is_done() -> None:
    class Slow(ThreadPoolExecutor):
        """Work that is done only a while after its function has returned."""

        def submit(self, function):
            def work() -> object:
                result = function()
                time.sleep(0.005)
                return result

            return super().submit(work)

    with Slow(2) as pool:
        assert list(Ahead(pool, Numbers(9), room_for(1))) == list(range(9))
