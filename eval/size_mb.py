"""Size of a swapper: megabytes of its saved files, parameters, multiply-adds; also of each part.

The original (HoiM/MobileFSGAN @478175b, README) prints "10.2 + 4.9": generator and identity encoder as saved float32
state dicts in units of 10^6 bytes. Other rows of its table are in MiB, so both units are given.
"""

from __future__ import annotations

import torch
from safetensors.torch import save
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swapcore.images import to_float

from .measured import Measured
from .metric import Metric, Value, View
from .parts import attributed, files_of, lacks_networks, parts_of


def saved_bytes(part: nn.Module) -> int:
    """Bytes of the part's state dict in a safetensors file."""
    return len(save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in part.state_dict().items()}))


def multiply_adds(view: View) -> tuple[float, dict[str, float]]:
    """Multiply-adds of one swap at the pairs' resolution, in total and by part: half of torch.utils.flop_counter's."""
    source, target = (to_float(images[:1].to(view.device)) for images in (view.pairs.source, view.pairs.target))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, attributed(parts_of(view.swapper), counter.get_total_flops) as shares:
        view.swapper(source, target)
    return counter.get_total_flops() / 2, {name: flops / 2 for name, flops in shares.items()}


def size_mb(view: View) -> dict[str, Measured]:
    """size_mb (10^6 bytes), size_mib (2^20 bytes), parameters, macs_g (10^9 multiply-adds); by part in the details.

    A part's own file counts if the swapper names it in `files`, else its state dict written as safetensors. Only bytes
    for a swapper with files alone.
    """
    parts, files = parts_of(view.swapper), files_of(view.swapper)
    sizes = {name: saved_bytes(part) for name, part in parts.items() if name not in files}
    sizes |= {name: path.stat().st_size for name, path in files.items()}
    saved = {"bytes_of": {name: "its file" if name in files else "state dict as safetensors" for name in sizes}}
    values = {}
    for key, unit in (("size_mb", 10**6), ("size_mib", 2**20)):
        shares = {name: count / unit for name, count in sizes.items()}
        values[key] = Measured(sum(shares.values()), 1, None, saved, {"parts": shares})
    if parts:
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        counted = {"counted": "parameters of all parts, buffers left out"}
        values["parameters"] = Measured(float(sum(counts.values())), 1, None, counted, {"parts": counts})
        total, macs = multiply_adds(view)
        protocol = {
            "counted_by": "torch.utils.flop_counter, halved",
            "resolution": view.pairs.resolution,
            "batch": 1,
        }
        shares = {name: count / 1e9 for name, count in macs.items()}
        values["macs_g"] = Measured(total / 1e9, 1, None, protocol, {"parts": shares})
    return values


SIZE = Metric(
    size_mb,
    (
        Value("size_mb", "MB", "MB (10^6 bytes)", "{:.2f}", "lower", parts=True, cost=True),
        Value("size_mib", "MiB", "MiB (2^20 bytes)", "{:.2f}", "lower", brief=False),
        Value("parameters", "parameters", "", "{:,.0f}", "lower", brief=False),
        Value("macs_g", "GMAC", "10^9 multiply-adds", "{:.3f}", "lower", parts=True, cost=True),
    ),
    lacks=lacks_networks,
)
