from __future__ import annotations

from threading import Event

import pytest

from sdst.errors import InputError
from sdst.serving.batching import Batcher
from sdst.serving.refusals import Refused


class Held:
    """Answers with the size of the batch, once it may."""

    def __init__(self) -> None:
        self.may, self.began = Event(), Event()
        self.batches: list[tuple[str, list[int]]] = []

    def __call__(self, key: str, items: list[int]) -> list[int]:
        self.began.set()
        self.may.wait(10)
        self.batches.append((key, items))
        return [len(items)] * len(items)


def test_what_comes_while_a_batch_is_computed_is_the_next_one() -> None:
    held = Held()
    batcher = Batcher(held, most=64, waiting=100)
    first = batcher.submit("a", 0)
    held.began.wait(10)
    others = [batcher.submit("a", i) for i in (1, 2, 3)]
    held.may.set()
    assert first.result(10) == 1
    assert [future.result(10) for future in others] == [3, 3, 3]
    batcher.stop()


def test_a_batch_has_one_key_and_the_oldest_comes_first() -> None:
    held = Held()
    batcher = Batcher(held, most=2, waiting=100)
    batcher.submit("x", 0)
    held.began.wait(10)
    for key, item in [("b", 1), ("a", 2), ("b", 3), ("b", 4)]:
        batcher.submit(key, item)
    held.may.set()
    batcher.stop()
    assert held.batches == [("x", [0]), ("b", [1, 3]), ("a", [2]), ("b", [4])]


def test_more_than_may_wait_are_refused() -> None:
    held = Held()
    batcher = Batcher(held, most=64, waiting=2)
    batcher.submit("a", 0)
    held.began.wait(10)
    waiting = [batcher.submit("a", i) for i in (1, 2)]
    with pytest.raises(Refused, match="2 questions wait already") as refused:
        batcher.submit("a", 3)
    assert refused.value.status == 503
    held.may.set()
    assert [future.result(10) for future in waiting] == [2, 2]
    batcher.stop()


def test_a_fault_is_that_of_its_batch_alone() -> None:
    def answer(key: str, items: list[int]) -> list[int]:
        if key == "bad":
            raise InputError("the video is gone")
        return items

    batcher = Batcher(answer, most=8, waiting=8)
    with pytest.raises(InputError, match="the video is gone"):
        batcher.submit("bad", 1).result(10)
    assert batcher.submit("good", 2).result(10) == 2
    batcher.stop()


def test_a_question_that_was_taken_back_is_not_answered() -> None:
    held = Held()
    batcher = Batcher(held, most=8, waiting=8)
    batcher.submit("a", 0)
    held.began.wait(10)
    assert batcher.submit("a", 1).cancel()
    held.may.set()
    batcher.stop()
    assert held.batches == [("a", [0])]


def test_after_the_end_nothing_is_taken() -> None:
    batcher = Batcher(lambda _, items: items, most=8, waiting=8)
    batcher.stop()
    with pytest.raises(Refused, match="is stopping"):
        batcher.submit("a", 0)
