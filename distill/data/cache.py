"""A cache of decoded pictures in memory, shared by the processes of a data loader."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import torch


class Cached:
    """Decoded pictures of the given `shape` (n, ...) uint8, each decoded by `load` at its first use.

    With `share`, several processes use one copy. Where all pictures need more than `limit_gb`, or more shared memory
    than is free, nothing is kept and a picture is decoded at every use.
    """

    def __init__(
        self, load: Callable[[Sequence[int]], torch.Tensor], shape: tuple[int, ...], limit_gb: float, share: bool
    ):
        self.load, self.pictures = load, None
        size = int(np.prod(shape, dtype=np.int64))
        if size > limit_gb * 1e9 or (share and size > 0.8 * _free_shared_memory()):
            return
        self.pictures, self.decoded = torch.zeros(shape, dtype=torch.uint8), torch.zeros(shape[0], dtype=torch.bool)
        if share:
            self.pictures.share_memory_()
            self.decoded.share_memory_()

    def __getitem__(self, indices: Sequence[int]) -> torch.Tensor:
        if self.pictures is None:
            return self.load(indices)
        index = torch.as_tensor(indices, dtype=torch.long)
        missing = index[~self.decoded[index]].unique()
        if len(missing):
            self.pictures[missing] = self.load(missing.tolist())
            self.decoded[missing] = True  # after the pixels: other processes see whole pictures only
        return self.pictures[index]


def _free_shared_memory() -> float:
    """Bytes free where shared tensors live; containers often have 64 MB only."""
    return shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else float("inf")
