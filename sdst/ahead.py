"""Work that threads do ahead of who needs it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
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
    """An iterator whose next item is already being made by a thread of `pool`."""

    def __init__(self, pool: ThreadPoolExecutor, items: Iterator[Item]):
        self._pool, self._items = pool, items
        self._next = pool.submit(next, items, None)

    def __next__(self) -> Item:
        item = self._next.result()
        if item is None:
            raise StopIteration
        self._next = self._pool.submit(next, self._items, None)
        return item
