"""CPU latency of one swap: median over runs at batch 1 after a warm-up, on one thread and on all.

The whole swapper is timed, and in the same runs its parts: an application that keeps the source computes its embedding
once, after which every frame costs the generator's share alone.
"""

from __future__ import annotations

import copy
import os
import platform
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .measured import Measured
from .pairs import to_float
from .parts import files_of, parts_of, shared_out
from .subject import Subject


def latency_ms(subject: Subject, runs: int = 10, warm_up: int = 2) -> dict[str, Measured]:
    """latency_ms on one thread, latency_all_threads_ms: medians; p10, p90 and the parts' medians in the details.

    A swapper without networks or files has none; nor has one that is off the CPU and is no module, so that a copy of it
    could be timed there. Torch's number of threads is the same afterwards. Raises ValueError for fewer than one run.
    """
    if runs < 1 or warm_up < 0:
        raise ValueError(f"latency_ms: expected at least one run after no or more warm-ups, got {runs} after {warm_up}")
    swapper = subject.swapper
    if not parts_of(swapper) and not files_of(swapper):
        return {}
    if subject.device.type != "cpu":
        if not isinstance(swapper, nn.Module):
            return {}
        swapper = copy.deepcopy(swapper).cpu()
    images = to_float(subject.pairs.source[:1]), to_float(subject.pairs.target[:1])
    threads_before = torch.get_num_threads()
    try:
        return {
            name: _timed(swapper, images, threads, runs, warm_up)
            for name, threads in (("latency_ms", 1), ("latency_all_threads_ms", _cores()))
        }
    finally:
        torch.set_num_threads(threads_before)


def _cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(swapper: Any, images: tuple[Tensor, Tensor], threads: int, runs: int, warm_up: int) -> Measured:
    torch.set_num_threads(threads)
    whole: list[float] = []
    by_part: dict[str, list[float]] = {}
    with torch.inference_mode():
        for run in range(-warm_up, runs):
            with shared_out(parts_of(swapper), time.perf_counter) as shares:
                started = time.perf_counter()
                swapper(*images)
                seconds = time.perf_counter() - started
            if run >= 0:
                whole.append(1000 * seconds)
                for name, share in shares.items():
                    by_part.setdefault(name, []).append(1000 * share)
    p10, p50, p90 = (float(ms) for ms in np.percentile(whole, [10, 50, 90]))
    protocol = {
        "device": "cpu", "processor": platform.processor() or platform.machine(), "threads": threads, "batch": 1,
        "resolution": images[0].shape[-1], "runs": runs, "warm_up": warm_up, "torch": torch.__version__,
    }  # fmt: skip
    details = {"p10": p10, "p90": p90, "parts": {name: float(np.median(times)) for name, times in by_part.items()}}
    return Measured(p50, "ms", "lower", runs, None, protocol, details)
