"""Shared by the converters: silence them, name the model in their errors, round weights to fp16 and int8."""

from __future__ import annotations

import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np


@contextmanager
def converting(
    model: str, runtime: str, errors: type[Exception] | tuple[type[Exception], ...], logger: str
) -> Iterator[None]:
    """Silence a converter's Python output and its logger. Raise its `errors` as ValueError with the model's name and
    their first line, or their first line about an operator."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except errors as error:
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "perator" in line), lines[0])
        raise ValueError(f"{model}: cannot be converted to {runtime}: {reason}") from error
    finally:
        log.setLevel(level)


@contextmanager
def quiet() -> Iterator[None]:
    """Capture all output of this process and its children, also of their C++ code. It is printed only if the block
    raises an exception other than ValueError, whose message is for the user."""
    with tempfile.TemporaryFile() as captured:
        _flush()
        streams = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in streams:
            os.dup2(captured.fileno(), number)
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
                captured.seek(0)
                print(captured.read().decode(errors="replace"), file=sys.stderr)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def halves(weights: np.ndarray, name: str) -> np.ndarray:
    """Weights rounded to float16. Raises ValueError, beginning with `name`, for values beyond its range."""
    with np.errstate(over="ignore"):
        small = weights.astype(np.float16)
    if not np.isfinite(small).all():
        raise ValueError(f"{name}: a weight of {np.abs(weights).max():g} is beyond fp16; use precision fp32")
    return small


def int8(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, ...) as int8, and the float32 scale of every output channel, (N, 1, ...)."""
    scale = np.abs(weights).max(tuple(range(1, weights.ndim)), keepdims=True) / np.float32(127)
    scale[scale == 0] = 1
    return np.rint(weights / scale).astype(np.int8), scale
