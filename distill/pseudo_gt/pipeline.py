"""Threads that work before and after the main thread, with bounded queues between them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any


def ahead(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """Yield the items, computed in a thread at most `depth` items ahead. Close the iterator to end the thread early."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, "ahead") as pool:
        pending = deque(pool.submit(next, iterator, end) for _ in range(depth))
        try:
            while (item := pending.popleft().result()) is not end:
                pending.append(pool.submit(next, iterator, end))
                yield item
        finally:
            pool.shutdown(cancel_futures=True)


def ordered(work: Callable[[Any], Any], items: Iterable[Any], threads: int, depth: int) -> Iterator[Any]:
    """Yield work(item) of all items in their order, computed by threads at most `depth` items ahead."""
    iterator = iter(items)
    with ThreadPoolExecutor(threads, "ordered") as pool:
        pending = deque(pool.submit(work, item) for item in islice(iterator, depth))
        try:
            while pending:
                result = pending.popleft().result()
                pending.extend(pool.submit(work, item) for item in islice(iterator, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


class Waits:
    """Seconds in which the main thread waits for other threads, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def items(self, name: str, items: Iterable[Any]) -> Iterator[Any]:
        """The items; the time until each of them is there counts."""
        iterator, end = iter(items), object()
        while (item := self.call(name, next, iterator, end)) is not end:
            yield item

    def call(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """function(*arguments); its time counts."""
        started = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


@contextmanager
def behind(work: Callable[..., None], depth: int) -> Iterator[Callable[..., None]]:
    """Yield a function that queues a call of `work` for a thread; it waits while `depth` calls are pending.

    The end of the block waits for all of them. An error of `work` is raised by one of the next calls or by the end of
    the block; the calls after the failed one are skipped.
    """
    pending: deque[Future] = deque()
    failed = False

    def work_unless_failed(*arguments: Any) -> None:
        nonlocal failed
        if not failed:
            try:
                work(*arguments)
            except BaseException:
                failed = True
                raise

    def put(*arguments: Any) -> None:
        while pending and (len(pending) >= depth or pending[0].done()):
            pending.popleft().result()
        pending.append(pool.submit(work_unless_failed, *arguments))

    with ThreadPoolExecutor(1, "behind") as pool:
        yield put
        for future in pending:
            future.result()
