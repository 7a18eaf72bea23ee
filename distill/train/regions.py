"""torch.compile by regions: each distinct block of a network is compiled once, not the network as a whole.

A network of 57 blocks in 25 shapes takes 25 small compilations instead of one that is as large as all of them. Code
between the blocks is not compiled.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import torch
from torch import nn

SHAPES = 64  # compiled forms of one block: torch gives up silently after 8, and a block may have more sizes


def regions(network: nn.Module) -> list[nn.Module]:
    """The outermost modules of classes that are not torch's own and occur more than once; without any, the network."""
    counts = Counter(type(module) for module in network.modules() if not _of_torch(module))
    return _regions(network, {kind for kind, count in counts.items() if count > 1}) or [network]


def _regions(module: nn.Module, repeated: set[type]) -> list[nn.Module]:
    if type(module) in repeated:
        return [module]
    return [region for child in module.children() for region in _regions(child, repeated)]


def _of_torch(module: nn.Module) -> bool:
    return type(module).__module__.split(".")[0] == "torch"


def compile_regions(network: nn.Module) -> None:
    """Compile the regions of a network in place: names, parameters and checkpoints do not change."""
    torch._dynamo.config.recompile_limit = max(SHAPES, torch._dynamo.config.recompile_limit)
    for region in regions(network):
        region.compile(dynamic=False)


def keep_compiled_in(folder: str | None) -> None:
    """Keep compiled code in `folder` (train.compile_cache), so that the next start compiles nothing; None: where torch
    keeps it, which is a temporary folder. Call it before anything is compiled."""
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder).resolve())
        os.environ.pop("TRITON_CACHE_DIR", None)  # inductor then puts Triton's files into the folder, too
