"""Converters and runtimes talk a great deal, half of it from C++, where Python's own redirection does not reach."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back all that this process and its children print inside the block. Where the block crashes, by anything but
    a ValueError, whose message tells what is wrong, it is printed after all."""
    with tempfile.TemporaryFile() as held:
        _flush()
        streams = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in streams:
            os.dup2(held.fileno(), number)
        crashed = False
        try:
            yield
        except ValueError:
            raise
        except Exception:
            crashed = True
            raise
        finally:
            _flush()
            for number, before in streams:
                os.dup2(before, number)
                os.close(before)
            if crashed:
                held.seek(0)
                print(held.read().decode(errors="replace"), file=sys.stderr)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
