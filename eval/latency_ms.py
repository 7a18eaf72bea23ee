"""Latency of one swap: median over runs at batch 1 after a warm-up, on one CPU thread, on all, and on the GPU.

The whole swapper and its parts are timed: an application with one source computes its embedding once, and then runs
only the generator on every frame.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from swapcore.hardware import available_cores, hardware, processor
from swapcore.images import to_float

from .measured import Measured
from .metric import Metric, Value, View
from .parts import attributed, lacks_networks, parts_of

GPU_RUNS, GPU_WARM_UP = 50, 10  # a GPU needs some runs to reach its clock rate


def latency_ms(view: View, runs: int = 10, warm_up: int = 2) -> dict[str, Measured]:
    """latency_ms on one CPU thread, latency_all_threads_ms; latency_gpu_ms if evaluation and swapper are on a GPU.

    Medians; p10, p90 and the parts' medians in the details. The CPU values are absent for a swapper that is on another
    device and not a module, so that it cannot be copied. Torch's number of threads is restored. Raises ValueError for
    fewer than one run.
    """
    if runs < 1 or warm_up < 0:
        raise ValueError(f"latency_ms: expected runs from 1 on and warm_up from 0 on, got {runs} and {warm_up}")
    swapper = view.swapper
    images = to_float(view.pairs.source[:1]), to_float(view.pairs.target[:1])
    values = {}
    if on_gpu(swapper, view.device):
        where = {
            "device": "cuda", "processor": torch.cuda.get_device_name(view.device), "cuda": torch.version.cuda,
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
        }  # fmt: skip
        there = tuple(image.to(view.device) for image in images)
        synchronize = partial(torch.cuda.synchronize, view.device)
        values["latency_gpu_ms"] = timed(swapper, there, where, GPU_RUNS, GPU_WARM_UP, synchronize)
    local = on_cpu(swapper, view.device)
    if local is None:
        return values
    where = {"device": "cpu", "processor": processor()}
    threads_before = torch.get_num_threads()
    try:
        for name, threads in (("latency_ms", 1), ("latency_all_threads_ms", available_cores())):
            torch.set_num_threads(threads)
            values[name] = timed(local, images, {**where, "threads": threads}, runs, warm_up)
    finally:
        torch.set_num_threads(threads_before)
    return values


def on_gpu(swapper: Any, device: torch.device) -> bool:
    """Whether the evaluation and a network of the swapper are on a GPU."""
    weights = (p.device.type for part in parts_of(swapper).values() for p in part.parameters())
    return device.type == "cuda" and "cuda" in weights


def on_cpu(swapper: Any, device: torch.device) -> Any | None:
    """The swapper on the CPU: itself or a copy; None if it is on another device and not a module."""
    if device.type == "cpu":
        return swapper
    return copy.deepcopy(swapper).cpu() if isinstance(swapper, nn.Module) else None


def timed(
    swapper: Any,
    images: tuple[Tensor, Tensor],
    where: dict[str, Any],
    runs: int,
    warm_up: int,
    synchronize: Callable[[], Any] | None = None,
) -> Measured:
    """Time runs of a swapper on its (1, 3, H, H) images; `where` describes the device in the protocol.

    synchronize: waits until an asynchronous device has finished; it is called before every reading of the clock. This
    stalls the device between parts, so the parts are then timed in separate runs.
    """

    def clock() -> float:
        if synchronize is not None:
            synchronize()
        return time.perf_counter()

    parts = parts_of(swapper)
    whole, by_part = _run(swapper, images, parts if synchronize is None else {}, runs, warm_up, clock)
    if synchronize is not None:
        _, by_part = _run(swapper, images, parts, runs, 0, clock)
    p10, p50, p90 = (float(ms) for ms in np.percentile(whole, [10, 50, 90]))
    protocol = {
        **where, "batch": 1, "resolution": images[0].shape[-1], "runs": runs, "warm_up": warm_up,
        "torch": torch.__version__,
    }  # fmt: skip
    details = {"p10": p10, "p90": p90, "parts": {name: float(np.median(times)) for name, times in by_part.items()}}
    return Measured(p50, runs, None, protocol, details)


@torch.inference_mode()
def _run(
    swapper: Any,
    images: tuple[Tensor, Tensor],
    parts: dict[str, nn.Module],
    runs: int,
    warm_up: int,
    clock: Callable[[], float],
) -> tuple[list[float], dict[str, list[float]]]:
    """Milliseconds of every run after the warm-up: of the whole swapper, and of each part."""
    whole: list[float] = []
    by_part: dict[str, list[float]] = {}
    for run in range(-warm_up, runs):
        with attributed(parts, clock) as shares:
            started = clock()
            swapper(*images)
            seconds = clock() - started
        if run >= 0:
            whole.append(1000 * seconds)
            for name, share in shares.items():
                by_part.setdefault(name, []).append(1000 * share)
    return whole, by_part


def lacks_speed(swapper: Any, pairs: Any, device: torch.device) -> str:
    """The reason why a swapper cannot be timed."""
    if not lacks_networks(swapper) and device.type != "cpu" and not isinstance(swapper, nn.Module):
        return "" if on_gpu(swapper, device) else "a file that does not run in torch is timed only without a GPU"
    return lacks_networks(swapper)


LATENCY = Metric(
    latency_ms,
    (
        Value("latency_ms", "CPU ms", "ms", "{:.1f}", "lower", parts=True, cost=True),
        Value("latency_all_threads_ms", "all threads ms", "ms", "{:.1f}", "lower", brief=False),
        Value("latency_gpu_ms", "GPU ms", "ms", "{:.2f}", "lower", parts=True, brief=False),
    ),
    lacks=lacks_speed,
    machine=hardware,
)
