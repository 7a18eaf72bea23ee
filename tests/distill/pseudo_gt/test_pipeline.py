"""Threads before and after the main one."""

import threading
import time

import pytest

from distill.pseudo_gt.pipeline import Waits, ahead, behind, ordered


def test_items_come_in_order_from_a_thread_a_few_ahead():
    computed, threads = [], set()

    def numbers():
        for i in range(9):
            computed.append(i)
            threads.add(threading.get_ident())
            yield i

    stream = ahead(numbers(), 2)
    assert next(stream) == 0 and list(stream) == list(range(1, 9)) and computed == list(range(9))
    assert len(threads) == 1 and threading.get_ident() not in threads
    computed.clear()
    stream = ahead(numbers(), 2)
    assert next(stream) == 0
    stream.close()
    assert len(computed) <= 1 + 2, "no more than two ahead, and none after the end"


def test_threads_end_with_their_neighbours():
    def numbers():
        yield from range(3)
        raise ValueError("no more")

    got = []
    with pytest.raises(ValueError, match="no more"):
        got.extend(ahead(numbers(), 1))
    assert got == [0, 1, 2]
    stream = ahead(iter(range(10**9)), 2)
    assert next(stream) == 0
    stream.close()
    with behind(got.append, 2) as put:
        for i in range(5):
            put(i)
    assert got[-5:] == [0, 1, 2, 3, 4]

    done = []

    def refuse(item):
        if item == 1:
            raise ValueError("refused")
        done.append(item)

    with pytest.raises(ValueError, match="refused"), behind(refuse, 1) as put:
        for i in range(10**6):
            put(i)
    with pytest.raises(ValueError, match="refused"), behind(refuse, 3) as put:
        for i in range(3):
            put(i)
    assert done == [0, 0], "nothing is done after an error"
    with pytest.raises(KeyError), behind(got.append, 1) as put:
        put(0)
        raise KeyError
    assert got[-1] == 0, "calls before an error of the block are done"


def test_results_come_in_order_from_several_threads():
    begun, threads = [], set()

    def work(item):
        begun.append(item)
        threads.add(threading.get_ident())
        time.sleep(0.02 if item % 2 == 0 else 0)  # odd ones are ready first
        return item * item

    assert list(ordered(work, range(9), 3, 4)) == [i * i for i in range(9)] and len(threads) == 3
    begun.clear()
    stream = ordered(work, range(100), 2, 4)
    assert next(stream) == 0
    stream.close()
    assert len(begun) <= 5, "no more than four ahead, and none after the end"
    assert list(ordered(work, [], 2, 4)) == []


def test_an_error_of_a_thread_comes_in_its_turn():
    def work(item):
        if item == 2:
            raise ValueError("no more")
        return item

    got = []
    with pytest.raises(ValueError, match="no more"):
        got.extend(ordered(work, range(9), 2, 4))
    assert got == [0, 1]


def test_waiting_is_counted_by_name():
    def slow():
        for i in range(3):
            time.sleep(0.02)
            yield i

    waits = Waits()
    for _ in waits.items("pictures", slow()):
        time.sleep(0.05)  # of the main thread: it does not count
    assert waits.seconds["pictures"] >= 0.06
    assert waits.call("writer", lambda a: a + 1, 2) == 3 and set(waits.seconds) == {"pictures", "writer"}
    with pytest.raises(ZeroDivisionError):
        waits.call("writer", lambda: 1 / 0)
