"""Work that threads do ahead of who needs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def encoder_threads(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A pool to encode in: on a CPU as many batches at once as there are threads, one thread each.

    Batches of their own need no barriers, on which threads would wait for a core that is decoding,
    and the features do not depend on the number of cores.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu":
        with ThreadPoolExecutor(1) as pool:
            yield pool
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


def map_ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
) -> Iterator[Result]:
    """`map(function, items)` by the threads of `pool`, in order, at most `ahead` of the caller."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) == ahead:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


class Ahead(Iterator[Item]):
    """An iterator whose next items are already being made, by one thread of `pool` at a time.

    Args:
        pool: whose threads make items.
        items: used by one thread at a time.
        room: whether, beside these that wait to be taken, one more may be made.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        items: Iterator[Item],
        room: Callable[[Sequence[Item]], bool],
    ) -> None:
        self._pool, self._items, self._room = pool, items, room
        self._made: deque[Item] = deque()
        self._changed = Condition()
        self._start()

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._made or self._making.done())
            if not self._made and not self._making.result():  # or why there is none
                raise StopIteration
            item = self._made.popleft()
            paused = self._making.done() and not self._making.exception() and self._making.result()
            if paused and self._room(self._made):
                self._start()
            return item

    def _start(self) -> None:
        self._making = self._pool.submit(self._make)
        self._making.add_done_callback(self._wake)

    def _make(self) -> bool:
        """Make items while there is room for them; whether there may be more."""
        for item in self._items:
            with self._changed:
                self._made.append(item)
                self._changed.notify()
                if not self._room(self._made):
                    return True
        return False

    def _wake(self, _: Future[bool]) -> None:
        with self._changed:
            self._changed.notify()
