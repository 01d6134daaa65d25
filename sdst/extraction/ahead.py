"""Work that threads do ahead of its use."""

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
        room: whether, beside these that wait to be taken, one more may be made. Where none waits
            there always is.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        items: Iterator[Item],
        room: Callable[[Sequence[Item]], bool],
    ) -> None:
        self._pool, self._items, self._room = pool, items, room
        self._waiting: deque[Item] = deque()
        self._error: BaseException | None = None
        self._over = False
        self._changed = Condition()  # guards all of these
        self._start()

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over)
            if not self._waiting:
                raise self._error or StopIteration
            item = self._waiting.popleft()
            if self._paused and (not self._waiting or self._room(self._waiting)):
                self._start()
            return item

    def _start(self) -> None:
        self._paused = False
        self._pool.submit(self._make)

    def _make(self) -> None:
        """Make items while there is room for them."""
        error = None
        try:
            for item in self._items:
                with self._changed:
                    self._waiting.append(item)
                    self._paused = not self._room(self._waiting)
                    self._changed.notify()
                    if self._paused:
                        return
        except BaseException as raised:  # for the one who takes items
            error = raised
        with self._changed:
            self._error, self._over = error, True
            self._changed.notify()
