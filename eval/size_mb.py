"""How large a swapper is: megabytes of its saved files, parameters, multiply-adds; each part apart.

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
from .parts import files_of, parts_of, shared_out
from .subject import Subject


def saved_bytes(part: nn.Module) -> int:
    """Bytes of the part's state dict in a safetensors file."""
    return len(save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in part.state_dict().items()}))


def multiply_adds(subject: Subject) -> tuple[float, dict[str, float]]:
    """Multiply-adds of one swap at the pairs' resolution: in all, and by part. Half of torch.utils.flop_counter's."""
    source, target = (
        to_float(images[:1].to(subject.device)) for images in (subject.pairs.source, subject.pairs.target)
    )
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, shared_out(parts_of(subject.swapper), counter.get_total_flops) as parts:
        subject.swapper(source, target)
    return counter.get_total_flops() / 2, {name: flops / 2 for name, flops in parts.items()}


def size_mb(subject: Subject) -> dict[str, Measured]:
    """size_mb (10^6 bytes), size_mib (2^20 bytes), parameters, macs_g (10^9 multiply-adds); by part in the details.

    A part's own file counts where the swapper names it in `files`, else its state dict written as safetensors. A
    swapper without parts and files, such as copy-target, has none of these values.
    """
    parts, files = parts_of(subject.swapper), files_of(subject.swapper)
    sizes = {name: saved_bytes(part) for name, part in parts.items() if name not in files}
    sizes |= {name: path.stat().st_size for name, path in files.items()}
    if not sizes:
        return {}
    how = {name: "its file" if name in files else "state dict as safetensors" for name in sizes}
    values = {}
    for key, unit, scale in (("size_mb", "MB (10^6 bytes)", 10**6), ("size_mib", "MiB (2^20 bytes)", 2**20)):
        shares = {name: count / scale for name, count in sizes.items()}
        values[key] = Measured(sum(shares.values()), unit, "lower", 1, None, {"bytes_of": how}, {"parts": shares})
    if parts:
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
        counted = {"counted": "parameters of all parts, buffers left out"}
        values["parameters"] = Measured(float(sum(counts.values())), "", "lower", 1, None, counted, {"parts": counts})
        total, macs = multiply_adds(subject)
        protocol = {
            "counted_by": "torch.utils.flop_counter, halved",
            "resolution": subject.pairs.resolution,
            "batch": 1,
        }
        shares = {name: count / 1e9 for name, count in macs.items()}
        values["macs_g"] = Measured(total / 1e9, "10^9 multiply-adds", "lower", 1, None, protocol, {"parts": shares})
    return values
