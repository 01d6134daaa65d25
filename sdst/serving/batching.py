"""Requests that wait together are answered together."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Generic, TypeVar

from sdst.serving.refusals import BUSY, Refused

logger = logging.getLogger(__name__)

SECONDS_TO_FINISH = 10  # what waits when the server ends; a thread does not outlive the process

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Key, Item, Answer]):
    """Collects what is asked while a batch is computed, and computes it as the next one.

    Nothing waits for a batch to fill: a request that comes alone is answered alone, at once.

    Args:
        answer: gives the answers to items of one key, in their order.
        most: items of a batch.
        waiting: items that may wait; more are refused.
        threads: how many batches are computed at a time.
        seen: is given the size of every batch.
    """

    def __init__(
        self,
        answer: Callable[[Key, list[Item]], list[Answer]],
        most: int,
        waiting: int,
        threads: int = 1,
        seen: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._answer, self._most, self._limit, self._seen = answer, most, waiting, seen
        self._changed = Condition()
        self._stopped = False
        # By key, that of the oldest item first.
        self._waiting: dict[Key, list[tuple[Item, Future[Answer]]]] = defaultdict(list)
        self._count = 0
        self._threads = [Thread(target=self._run, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return self._count

    def submit(self, key: Key, item: Item) -> Future[Answer]:
        """Ask; the future has the answer, or what was raised for its batch.

        Raises:
            Refused: too many wait, or the server is stopping.
        """
        future: Future[Answer] = Future()
        with self._changed:
            if self._stopped:
                raise Refused(BUSY, "the server is stopping; try again later")
            if self._count >= self._limit:
                raise Refused(BUSY, f"{self._count:,} questions wait already; try again later")
            self._waiting[key].append((item, future))
            self._count += 1
            self._changed.notify()
        return future

    def stop(self) -> None:
        """Refuse what comes, answer what waits as far as that is soon done, end the threads."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(SECONDS_TO_FINISH)

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            self._compute(*batch)

    def _next(self) -> tuple[Key, list[tuple[Item, Future[Answer]]]] | None:
        """The oldest batch; None once stopped and nothing waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if not self._waiting:
                return None
            key = next(iter(self._waiting))
            items = self._waiting.pop(key)
            if rest := items[self._most :]:
                self._waiting[key] = rest  # behind the other keys, so that none waits for ever
            self._count -= len(items) - len(rest)
            return key, items[: self._most]

    def _compute(self, key: Key, batch: list[tuple[Item, Future[Answer]]]) -> None:
        batch = [(item, future) for item, future in batch if future.set_running_or_notify_cancel()]
        if not batch:
            return
        self._seen(len(batch))
        try:
            answers = self._answer(key, [item for item, _ in batch])
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            future.set_result(answer)
