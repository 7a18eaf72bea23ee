"""Threads before and after the main one."""

import threading

import pytest

from distill.pseudo_gt.pipeline import ahead, behind


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
