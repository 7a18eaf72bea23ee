"""Peak memory of one swap at batch 1: the weights, and the largest allocation beside them at any moment.

On the CPU the allocations are those that torch's profiler records: with the scratch memory of torch's own operators,
without that of libraries with their own allocator; on a GPU those of torch's allocator. Neither counts the two images,
nor the memory of torch and its libraries themselves. The runtime of a phone needs a different amount.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from swapcore.hardware import hardware
from swapcore.images import to_float

from .latency_ms import on_cpu, on_gpu
from .measured import Measured
from .metric import Metric, Value, View
from .parts import files_of, parts_of

MB = 10**6


def peak_memory_mb(view: View) -> dict[str, Measured]:
    """peak_memory_mb on the CPU, peak_memory_gpu_mb on the evaluation's GPU: 10^6 bytes, shares in the details.

    On the CPU absent for a swapper that is on another device and not a module, so that it cannot be copied.
    """
    swapper = view.swapper
    images = to_float(view.pairs.source[:1]), to_float(view.pairs.target[:1])
    common = {"batch": 1, "resolution": view.pairs.resolution, "torch": torch.__version__}
    values = {}
    if on_gpu(swapper, view.device):
        there = tuple(image.to(view.device) for image in images)
        where = {"device": "cuda", "processor": torch.cuda.get_device_name(view.device)}
        method = "weights + torch.cuda.max_memory_allocated above what was allocated before"
        working = gpu_bytes(lambda: swapper(*there), view.device)
        values["peak_memory_gpu_mb"] = _measured(swapper, working, {**where, "method": method, **common})
    local = on_cpu(swapper, view.device)
    if local is not None:
        where = {"device": "cpu", "threads": 1}
        method = "weights + peak of the allocations in torch.profiler's trace"
        working = cpu_bytes(lambda: local(*images))
        values["peak_memory_mb"] = _measured(local, working, {**where, "method": method, **common})
    return values


def weight_bytes(networks: Iterable[nn.Module]) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for network in networks
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())


@torch.inference_mode()
def cpu_bytes(call: Callable[[], Any]) -> int:
    """The peak of allocations on one thread during a second call, above those before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it logs every start and every missing GPU
    threads_before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        call()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            call()
    finally:
        torch.set_num_threads(threads_before)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((event for event in events if event["name"] == "[memory]"), key=lambda event: event["ts"])
    allocated = peak = 0
    for event in memory:
        allocated += event["args"]["Bytes"]  # below 0 if memory is freed
        peak = max(peak, allocated)
    return peak


@torch.inference_mode()
def gpu_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """The same by torch's CUDA allocator."""
    call()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _measured(swapper: Any, working: int, protocol: dict[str, Any]) -> Measured:
    own = [swapper] if isinstance(swapper, nn.Module) else []
    weights = weight_bytes([*own, *parts_of(swapper).values()])
    details = {"weights": weights / MB, "working": working / MB}
    return Measured((weights + working) / MB, 1, None, protocol, details)


def lacks_memory(swapper: Any, pairs: Any, device: Any) -> str:
    """The reason why the memory of a swapper cannot be measured."""
    in_torch = parts_of(swapper) and not set(files_of(swapper)) - set(parts_of(swapper))
    return "" if in_torch else "no swapper here has networks that all run in torch"


PEAK_MEMORY = Metric(
    peak_memory_mb,
    (
        Value("peak_memory_mb", "peak MB", "MB (10^6 bytes)", "{:.1f}", "lower", brief=False),
        Value("peak_memory_gpu_mb", "GPU peak MB", "MB (10^6 bytes)", "{:.1f}", "lower", brief=False),
    ),
    lacks=lacks_memory,
    machine=hardware,
)
