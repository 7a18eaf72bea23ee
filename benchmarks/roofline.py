"""The speed of a device, the operations of a step, and the profile of its time."""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

FUSED, OTHER = "compiled, fused", "elementwise and other"
# Groups of the profile: the first whose pattern is in an operation's name.
GROUPS = {
    "optimiser and average": r"adam|foreach|lerp_",
    "normalisation": r"_norm|batchnorm|var_mean",
    "convolutions": r"conv",
    "matrix products": r"addmm|::mm|bmm|::mv|linear|gemm|vdot|dot$",
    "resizing and sampling": r"upsample|interpolate|grid_sampl|adaptive|avg_pool|max_pool|pad|pixel_|unfold",
    "copies and casts": r"copy|clone|contiguous|::cat|fill_|zero|memcpy|memset|to_mkldnn|reorder",
    FUSED: r"triton|compiled|inductor|cpp_fused",
}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 1.0) -> float:
    """FLOP/s of the fastest square matrix product on this device. fp32 as torch convolves: on a GPU with TF32."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    try:
        return 2 * size**3 / _fastest(lambda: a @ b, device, seconds)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def bandwidth(device: torch.device, seconds: float = 0.5) -> float:
    """Bytes/s of the best copy of a large tensor, read and written."""
    size = 2**30 if device.type == "cuda" else 2**27
    a, b = (torch.ones(size // 4, device=device) for _ in range(2))
    return 2 * size / _fastest(lambda: b.copy_(a), device, seconds)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    work()
    wait(device)
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        work()
        wait(device)
        best = min(best, time.perf_counter() - started)
    return best


class Operations(TorchDispatchMode):
    """Counts operations, forward and backward: FLOP (2 a multiply-add) of matrix operations, bytes that all operations
    read and write, and the seconds they would take at the given rates, one after the other (the roofline).

    A fused or foreach operation counts once, as a GPU launches it; a CPU may loop over its tensors.
    Fused operations need not read and write in between, so compiled code may be faster than this."""

    def __init__(self, flops_per_s: float, bytes_per_s: float) -> None:
        super().__init__()
        self.rates = flops_per_s, bytes_per_s
        self.flops = self.bytes = self.calls = 0
        self.seconds = 0.0
        self.names: dict[str, Counter] = {"forward": Counter(), "backward": Counter(), "optimisers": Counter()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        if not function._schema.is_mutable and _is_view(inputs, outputs):
            return out
        count = flop_registry.get(function._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        moved = sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        self.calls += 1
        name = str(function._overloadpacket).removeprefix("aten.")
        backward = torch._C._current_graph_task_id() != -1  # the autograd engine is at work
        self.names["backward" if backward else "optimisers" if "adam" in name else "forward"][name] += 1
        self.flops, self.bytes = self.flops + flops, self.bytes + moved
        self.seconds += max(flops / self.rates[0], moved / self.rates[1])
        return out

    def table(self, most: int = 8) -> str:
        """Operations by phase, the most frequent ones by name. Losses, clipping and average count as forward."""
        rows = []
        for phase, counts in self.names.items():
            frequent = ", ".join(f"{name} {count}" for name, count in counts.most_common(most))
            rows.append(f"{phase} {counts.total():,} ({frequent})")
        return "; ".join(rows)


def _is_view(inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> bool:
    """Whether no output has memory of its own."""
    known = {t.untyped_storage()._cdata for t in inputs}
    return all(t.untyped_storage()._cdata in known for t in outputs)


def host_waits(work: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the GPU during `work`, as far as torch reports it; None without a GPU."""
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def shares(work: Callable[[], object], device: torch.device, repeats: int = 2) -> dict[str, float]:
    """Shares of the wall time of `work` by group of operations; a GPU is `idle` while it waits for the host. The
    profiler itself slows the host."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    work()
    wait(device)
    with profile(activities=activities) as recorded:
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        wait(device)
        wall = time.perf_counter() - started
    spent: Counter = Counter()
    kernels = 0.0
    for event in recorded.key_averages():
        if event.device_type != DeviceType.CPU:  # a kernel; below, its time is that of the operation that launched it
            kernels += 0.0 if event.is_user_annotation else event.self_device_time_total / 1e6
        elif not event.key.startswith(("ProfilerStep", "cuda", "[memory]")):
            name = event.key.lower()
            group = next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), OTHER)
            spent[group] += (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 1e6
    spent[FUSED] += max(0.0, kernels - sum(spent.values())) if device.type == "cuda" else 0.0
    busy = sum(spent.values())
    rest = "idle, waiting for the host" if device.type == "cuda" else "outside operations"
    spent[rest] = max(0.0, wall - busy)
    total = max(busy, wall)
    return {group: seconds / total for group, seconds in spent.most_common() if seconds / total > 0.001}


def text(profile: dict[str, float]) -> str:
    return ", ".join(f"{group} {share:.0%}" for group, share in profile.items())
