"""Results that threads share: each is made once, and those used last are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key, the `most` used last; safe to use from several threads.

    A thread that asks for a value another thread is making waits for it. Values that are being made
    are kept beyond `most`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = Lock()
        self._values: OrderedDict[Key, Future[Value]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of `key`; made by `make` where it is not kept.

        Raises:
            BaseException: what `make` raised, in every thread that waited; the next call tries
                again.
        """
        with self._lock:
            future = self._values.get(key)
            if is_new := future is None:
                future = self._values[key] = Future()
            self._values.move_to_end(key)
        if is_new:
            self._make(key, future, make)
        return future.result()

    def _make(self, key: Key, future: Future[Value], make: Callable[[], Value]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                del self._values[key]  # only this thread removes it while it is being made
            future.set_exception(error)
        with self._lock:
            self._drop_old()

    def _drop_old(self) -> None:
        finished = [key for key, future in self._values.items() if future.done()]
        for key in finished[: max(len(self._values) - self._most, 0)]:
            del self._values[key]
