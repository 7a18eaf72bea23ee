"""Work before and after the main thread's, in threads beside it, with bounded queues between them.

An error in a thread is raised in the main one, and one in the main thread ends the others before it goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, Full, Queue
from threading import Event
from typing import Any

_END, _ABORT = object(), object()
POLL_SECONDS = 0.1  # how soon a thread that waits for room sees that the other has ended


class Aborted(RuntimeError):
    """Raised inside a consumer whose producer has failed."""


def ahead(items: Iterable[Any], depth: int) -> Iterator[Any]:
    """The same items, made in a thread that is at most `depth` of them ahead.

    Close it where it is not read to its end.
    """
    queue: Queue = Queue(depth)
    unwanted = Event()

    def work() -> None:
        try:
            for item in items:
                if not _put(queue, item, unwanted):
                    return
        finally:
            _put(queue, _END, unwanted)

    with ThreadPoolExecutor(1, "ahead") as pool:
        done = pool.submit(work)
        try:
            while (item := queue.get()) is not _END:
                yield item
            done.result()
        finally:
            unwanted.set()


@contextmanager
def behind(consume: Callable[[Iterator[Any]], None], depth: int) -> Iterator[Callable[[Any], None]]:
    """Yield `put`: `consume`, in a thread, gets an iterator of all that is put. Leaving the block waits for its end."""
    queue: Queue = Queue(depth)
    over = Event()

    def items() -> Iterator[Any]:
        while (item := queue.get()) is not _END:
            if item is _ABORT:
                raise Aborted
            yield item

    def work() -> None:
        try:
            consume(items())
        finally:
            over.set()

    with ThreadPoolExecutor(1, "behind") as pool:
        done = pool.submit(work)

        def put(item: Any) -> None:
            if not _put(queue, item, over):
                done.result()
                raise RuntimeError("the consumer ended before its producer")

        mark = _ABORT
        try:
            yield put
            mark = _END
        finally:
            while mark is _ABORT and queue.full():  # what nobody will write need not wait
                with suppress(Empty):
                    queue.get_nowait()
            _put(queue, mark, over)
        done.result()


def _put(queue: Queue, item: Any, over: Event) -> bool:
    """Wait for room and put; False as soon as `over` says that nobody reads any more."""
    while not over.is_set():
        with suppress(Full):
            queue.put(item, timeout=POLL_SECONDS)
            return True
    return False
